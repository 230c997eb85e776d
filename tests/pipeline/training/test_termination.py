"""TERM to processes of their own, wherever it finds them."""

import signal
import subprocess
import sys

import pytest

from pipeline.training.termination import termination
from tests.pipeline.training.tiny import stoppable

HEAD = """
import sys, time
from pipeline.training.termination import termination
def ready():
    print("ready", flush=True)
"""
IN_TIME = "stopped, not ended 0.5 seconds after the signal: "


def ended(program: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    """The exit code and output of a program that gets a signal once it says that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_term_ends_a_block_at_once_and_cleanly():
    code, out, err = ended("""
with termination():
    try:
        ready()
        time.sleep(50)
    finally:
        print("tidied up")
""")
    assert (code, out) == (143, "tidied up\n")
    assert err == "stopped: before training; what was saved earlier is as it was\n"


def test_term_ends_a_process_inside_a_library_that_waits():
    code, _, err = ended("""
import threading
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True)
with termination(limit=0.5):
    threading.Timer(1, ready).start()  # from inside the wait
    store.wait(["what another worker never sets"], timedelta(seconds=50))
""")
    assert (code, err.splitlines()[-1]) == (143, IN_TIME + "before training; what was saved earlier is as it was")


def test_term_ends_a_process_whose_threads_do_not():
    code, _, err = ended("""
import threading
threading.Thread(target=time.sleep, args=(50,)).start()
with termination(limit=0.5):
    ready()
    time.sleep(50)
""")
    assert (code, err.splitlines()[-1]) == (143, IN_TIME + "before training; what was saved earlier is as it was")


def test_what_an_iteration_that_takes_too_long_costs_is_said():
    code, _, err = ended("""
with termination(limit=0.5) as stop:
    stop.kept = lambda: "iteration 50 is saved; iterations 51 to 57 are lost"
    with stop.held():
        ready()
        while True:  # a signal that is noted wakes no one
            time.sleep(50)
""")
    assert (code, err) == (143, IN_TIME + "iteration 50 is saved; iterations 51 to 57 are lost\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_a_held_block_and_is_not_lost(number):
    code, out, _ = ended(
        """
with termination() as stop:
    with stop.held():
        ready()
        while not stop.came:
            time.sleep(0.01)
        print("finished")
    print("not here")
""",
        number,
    )
    assert (code, out) == (143, "finished\n")


def test_within_a_held_block_another_may_end_at_once():
    reached = []
    with pytest.raises(SystemExit), stoppable() as stop, stop.held():
        with stop.held(False):
            reached.append("a signal may end this")
        reached.append("it is held again")
        signal.raise_signal(signal.SIGTERM)
        reached.append("the signal waits")
        with stop.held(False):
            reached.append("not here")
    assert reached == ["a signal may end this", "it is held again", "the signal waits"]


def test_a_signal_within_a_held_block_follows_it():
    with stoppable() as stop, stop.held():
        assert not stop.came
    with pytest.raises(SystemExit), stoppable() as stop, stop.held():
        signal.raise_signal(signal.SIGTERM)
        assert stop.came


def test_a_block_without_a_signal_leaves_nothing_behind():
    with termination():
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

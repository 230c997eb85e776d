"""TERM to processes of their own, wherever it finds them."""

import signal
import subprocess
import sys

import pytest

from pipeline.training.termination import termination

HEAD = """
import sys, time
from pipeline.training.termination import termination
def ready():
    print("ready", flush=True)
"""


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


def test_what_an_iteration_that_takes_too_long_costs_is_said_at_once():
    code, out, err = ended("""
with termination() as stop:
    stop.kept = "iteration 50 is saved"
    with stop.held():
        ready()
        time.sleep(2)  # a signal that is noted wakes no one
        stop.kept = "iteration 51 is saved"
        print("finished")
""")
    assert (code, out) == (143, "finished\n")
    until, stopped = err.strip().splitlines()
    assert until == "stopping after the iteration at hand; until then iteration 50 is saved"
    assert stopped == "stopped: iteration 51 is saved"


def test_a_closed_pipe_costs_nothing():
    """`| tee` ends by the same Ctrl-C."""
    code, out, _ = ended("""
with termination() as stop:
    with stop.held():
        import os
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 2)
        ready()
        time.sleep(2)
        print("saved")
""")
    assert (code, out) == (143, "saved\n")


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
    with pytest.raises(SystemExit), termination() as stop, stop.held():
        with stop.held(False):
            reached.append("a signal may end this")
        reached.append("it is held again")
        signal.raise_signal(signal.SIGTERM)
        reached.append("the signal waits")
        with stop.held(False):
            reached.append("not here")
    assert reached == ["a signal may end this", "it is held again", "the signal waits"]


def test_a_signal_within_a_held_block_follows_it():
    with termination() as stop, stop.held():
        assert not stop.came
    with pytest.raises(SystemExit), termination() as stop, stop.held():
        signal.raise_signal(signal.SIGTERM)
        assert stop.came


def test_a_block_without_a_signal_leaves_nothing_behind():
    with termination():
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

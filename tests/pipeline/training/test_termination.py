"""TERM to processes of their own, wherever it finds them."""

import signal
import subprocess
import sys

import pytest

from pipeline.training.termination import held

HEAD = """
import sys, time
from pipeline.training.termination import held, termination
def ready():
    print("ready", flush=True)
"""


def ended(program: str) -> tuple[int, str, str]:
    """The exit code and output of a program that gets TERM once it says that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
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
    assert (code, out, err) == (143, "tidied up\n", "")


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
    assert (code, err.splitlines()[-1]) == (143, "not ended 0.5 seconds after TERM: stopped")


def test_term_ends_a_process_whose_threads_do_not():
    code, _, err = ended("""
import threading
threading.Thread(target=time.sleep, args=(50,)).start()
with termination(limit=0.5):
    ready()
    time.sleep(50)
""")
    assert (code, err.splitlines()[-1]) == (143, "not ended 0.5 seconds after TERM: stopped")


def test_term_waits_for_the_end_of_a_held_block_and_is_not_lost():
    code, out, _ = ended("""
with termination():
    with held() as terminated:
        ready()
        while not terminated():
            time.sleep(0.01)
        print("finished")
    print("not here")
""")
    assert (code, out) == (143, "finished\n")


def test_a_held_block_without_term_leaves_nothing_behind():
    with held() as terminated:
        assert not terminated()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(SystemExit), held():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

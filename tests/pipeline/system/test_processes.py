"""Asking whether a child runs, while signals come."""

import signal
import subprocess
import sys
import threading

from pipeline.system.processes import runs

SIGNALS = 200


class Came(BaseException):
    """As SystemExit is raised by the handler of TERM."""


def test_a_signal_within_the_question_does_not_hang_who_waits_for_the_child():
    def raises(*_):
        raise Came

    def ask() -> None:
        while runs(child):
            pass

    before = signal.signal(signal.SIGALRM, raises)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for _ in range(SIGNALS):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                ask()
            except Came:
                continue
            raise AssertionError("the child has ended")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        child.kill()
    waiting = threading.Thread(target=child.wait, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
    assert not runs(child)


def test_a_child_that_has_ended_runs_no_more():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    while runs(child):
        pass
    assert child.wait() == 3 and not runs(child)

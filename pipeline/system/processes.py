"""What this process starts ends with it, or before: asked first, then by force, and nothing is left behind."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from pipeline.system import tether
from pipeline.system.environment import JOB

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # from a stop that is asked for to the end of everything on this machine
JOB_SECONDS = 21.0  # … of which a job has these until KILL
LEAVE_SECONDS = 3.0  # … then `hvg run`, for what Prefect's server has not been told yet, and dvc
HURRIED_SECONDS = 3.0  # … then a command that had all its time, or that a second Ctrl-C ends
SERVER_SECONDS = 3.0  # … and last the server
KILL_SECONDS = 10.0  # after which it is said what even KILL has not ended

Found = Callable[[], set[psutil.Process]]  # what lives at the moment


def start(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a child that ends with this process. It leads a group, which no Ctrl-C of the terminal's reaches."""
    command = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, **options)


def runs(process: subprocess.Popen[Any]) -> bool:
    """Whether a child still runs, to be asked again and again.

    Not Popen.poll: one in four exceptions that a signal's handler raises within it leaves its lock taken, and whoever
    waits for the child then waits for ever.
    """
    return process.returncode is None and psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """The CPU time of the group that a child leads, of those of it that live."""
    total = 0.0
    for one in group(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:2])
    return total


def end_group(process: subprocess.Popen[Any], *steps: tuple[signal.Signals, float], left: Found | None = None) -> bool:
    """End a process and the group that it leads: signals, each with the seconds that it has to do its work, then KILL.

    left: what must be gone; by default the group, of which alone a signal is heard. A process hears each signal once,
    also one that begins meanwhile; Ctrl-C takes the time from a step. Returns whether all ended without force.
    """
    found = left or (lambda: group(process.pid))
    with undisturbed():
        try:
            for number, seconds in steps:
                heard: set[psutil.Process] = set()
                end = time.monotonic() + seconds
                with contextlib.suppress(KeyboardInterrupt):
                    while found() and time.monotonic() < end:
                        told = group(process.pid) - heard
                        heard |= told
                        _send(number, told)
                        time.sleep(0.05)
            return not found()
        finally:
            kill(found)
            process.kill()
            process.wait()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While something is stopped TERM and HUP change nothing: make, timeout and shells send two. Ctrl-C hurries."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def group(leader: int) -> set[psutil.Process]:
    """Every living process of the group of a leader."""
    return living(lambda one: os.getpgid(one.pid) == leader)


def members(job: str) -> set[psutil.Process]:
    """Every living process of a job, wherever it hangs: they all inherit the job's name."""
    return living(lambda process: process.environ().get(JOB) == job)


def kill(found: Found) -> None:
    """KILL to every process that is found, also to those that were on their way meanwhile."""
    end = time.monotonic() + KILL_SECONDS
    while (processes := found()) and time.monotonic() < end:
        _send(signal.SIGKILL, processes)
        time.sleep(0.05)
    if processes:
        log.warning("processes do not end: %s", [process.pid for process in processes])


def living(wanted: Callable[[psutil.Process], bool]) -> set[psutil.Process]:
    """Every living process that is wanted."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if wanted(process) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def _send(number: signal.Signals, processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)

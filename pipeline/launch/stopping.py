"""How what this process has started ends: asked first, then by force, and nothing is left behind."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from pipeline.system.stage import JOB

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # from a stop that is asked for to the end of everything on this machine
JOB_SECONDS = 21.0  # … of which a job has these until KILL; a stage ends itself after 20
LEAVE_SECONDS = 3.0  # … then `hvg run`, for what Prefect's server has not been told yet
DVC_SECONDS = 1.0  # … then dvc, whose command has failed
SERVER_SECONDS = 3.0  # … and last the server
_HURRIED_SECONDS = 2.0  # for a command that had all its time, or that a second Ctrl-C ends
_BETWEEN_SECONDS = 15.0  # for a dvc that runs no command: it hashes, or links files


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


def end_group(process: subprocess.Popen[Any], seconds: float) -> None:
    """TERM to the group that a process leads and, after so many seconds, KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


@undisturbed()
def end_dvc(process: subprocess.Popen[Any], seconds: float, *, goes_on: bool = False, told: bool = False) -> None:
    """End a dvc and what it runs; its command has so many seconds. A Ctrl-C meanwhile takes them.

    A dvc that waits for a command ignores Ctrl-C, and so it stands still until the command, which is told as by Ctrl-C
    (unless the terminal has `told` it), is gone: it begins no other stage. It ends by itself then, unless it `goes_on`
    after a failure. Between two commands it is told itself.
    """
    family: set[psutil.Process] = set()
    try:
        dvc = psutil.Process(process.pid)
        dvc.suspend()
        if not _commands(dvc):
            if not told:
                dvc.send_signal(signal.SIGINT)
            dvc.resume()
            if _ended(process, _BETWEEN_SECONDS):
                return
            dvc.suspend()
        family |= {*dvc.children(recursive=True)}
        for number, limit in ((None if told else signal.SIGINT, seconds), (signal.SIGTERM, _HURRIED_SECONDS)):
            _tell_commands(dvc, number, limit)
        if not goes_on:
            dvc.resume()
            _ended(process, DVC_SECONDS)
    except psutil.NoSuchProcess:  # it is over by itself
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        _kill(family)


def _ended(process: subprocess.Popen[Any], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(seconds)
    return process.poll() is not None


def _tell_commands(dvc: psutil.Process, number: signal.Signals | None, seconds: float) -> None:
    """Send each command a signal and wait for the end of all, so many seconds or until Ctrl-C."""
    known = _commands(dvc)
    told: set[psutil.Process] = set()
    end = time.monotonic() + seconds
    with contextlib.suppress(KeyboardInterrupt):
        while known and time.monotonic() < end:
            for command in known - told:
                if number is not None:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        command.send_signal(number)
            told |= known
            time.sleep(0.02)
            known = {command for command in known | _commands(dvc) if _lives(command)}  # a shell may be gone first


def _commands(dvc: psutil.Process) -> set[psutil.Process]:
    """What dvc runs in its process group: a shell, hvg; not the job, which is hvg's to end."""
    group = os.getpgid(dvc.pid)
    found = set()
    for process in dvc.children(recursive=True):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and _lives(process):
                found.add(process)
    return found


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def members(job: str) -> set[psutil.Process]:
    """Every living process of a job, wherever it hangs: they all inherit the job's name."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(JOB) == job and _lives(process):
                found.add(process)
    return found


def kill_members(job: str) -> None:
    """KILL to every process of a job, also to those that were on their way meanwhile."""
    for _ in range(10):
        if not _kill(members(job)) and not members(job):
            return
    log.warning("processes of a job do not end: %s", [process.pid for process in members(job)])


def _kill(processes: set[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that live on, five seconds after KILL."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return psutil.wait_procs(processes, timeout=5)[1]

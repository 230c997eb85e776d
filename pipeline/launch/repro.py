"""`dvc repro` with a Prefect server for its time."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.launch.remote import CANCEL_SECONDS, REMOVAL_SECONDS
from pipeline.launch.server import API_URL, prefect_server
from pipeline.system.processes import (
    HURRIED_SECONDS,
    JOB_SECONDS,
    LEAVE_SECONDS,
    end_group,
    group,
    kill,
    living,
    start,
    undisturbed,
)

BETWEEN_SECONDS = 15.0  # that a dvc between two commands has to end
_KEEPS_GOING = re.compile("-[a-zA-Z]*k[a-zA-Z]*|--k[a-z-]*|--ig[a-z-]*")  # --keep-going, --ignore-errors


def run_dvc_repro(state: Path, arguments: Sequence[str], *options: str) -> int:
    """Run `dvc OPTIONS repro ARGUMENTS` and return its exit code.

    It has a process group of its own, and so no terminal to read from, and is stopped as if by Ctrl-C, whatever ends
    this call: its command stops its job, then DVC ends, and the server last.
    """
    # DVC runs commands in the user's shell, which may be no sh, and in copies that hold no .venv.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with prefect_server(state) as url:
        command = [sys.executable, "-m", "dvc", *options, "repro", *arguments]
        dvc = start(command, env={**os.environ, "SHELL": "/bin/sh", "PATH": path, API_URL: url})
        try:
            return dvc.wait()
        except BaseException:
            end_dvc(dvc, goes_on=any(_KEEPS_GOING.fullmatch(argument) for argument in arguments))
            raise


@undisturbed()
def end_dvc(dvc: subprocess.Popen[Any], *, goes_on: bool = False) -> None:
    """End a dvc, which leads a group, as if by Ctrl-C: it ends by itself after its command, unless it `goes_on` then.

    A command on a cluster has the time that the removal of its job takes. What had its time is hurried. A dvc without a
    command hashes, or links files, and has some seconds for it.
    """
    here = os.environ.get("HVG_CLUSTER", "local") == "local"
    seconds = JOB_SECONDS + LEAVE_SECONDS if here else CANCEL_SECONDS + REMOVAL_SECONDS + 15
    family: set[psutil.Process] = set()  # also what lies outside its group, as jobs do
    with contextlib.suppress(psutil.NoSuchProcess):
        family.update(psutil.Process(dvc.pid).children(recursive=True))
    if goes_on:
        dvc.send_signal(signal.SIGSTOP)  # it begins no other stage, and is not waited for
        if {one.pid for one in group(dvc.pid)} <= {dvc.pid}:  # between two commands, where it hears Ctrl-C itself
            dvc.send_signal(signal.SIGINT)
            dvc.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                dvc.wait(BETWEEN_SECONDS)
            dvc.send_signal(signal.SIGSTOP)
    try:
        end_group(dvc, (signal.SIGINT, seconds), (signal.SIGINT, HURRIED_SECONDS))
    finally:
        kill(lambda: living(family.__contains__))

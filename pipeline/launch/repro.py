"""`dvc repro` with a Prefect server for its time."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.checkout import in_git
from pipeline.errors import UserError
from pipeline.launch.remote import CANCEL_SECONDS, REMOVAL_SECONDS
from pipeline.launch.server import API_URL, prefect_server
from pipeline.progress import write_line
from pipeline.system.processes import HURRIED_SECONDS, JOB_SECONDS, LEAVE_SECONDS, end_group, group, living, start


def run_dvc_repro(state: Path, arguments: Sequence[str], *options: str) -> int:
    """Run `dvc OPTIONS repro ARGUMENTS` and return its exit code.

    It has a process group of its own, and so no terminal to read from, and is stopped as if by Ctrl-C, whatever ends
    this call: its command stops its job, then DVC ends, and the server last.
    """
    _do_without_git()
    # DVC runs commands in the user's shell, which may be no sh, and in copies that hold no .venv.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with prefect_server(state) as url:
        command = [sys.executable, "-m", "dvc", *options, "repro", *arguments]
        dvc = start(command, env={**os.environ, "SHELL": "/bin/sh", "PATH": path, API_URL: url})
        try:
            return dvc.wait()
        except BaseException:
            end_dvc(dvc)
            raise


def _do_without_git() -> None:
    """Let DVC work in a folder that is no git repository, such as a release's ZIP. It alone would ask for one."""
    configs = [Path(".dvc", name) for name in ("config", "config.local")]
    if not in_git(Path()) and not any("no_scm" in config.read_text() for config in configs if config.is_file()):
        command = [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"]
        if subprocess.run(command, check=False).returncode:
            raise UserError(".dvc/config.local: no git repository, which DVC cannot be told there; it says why above")
        write_line(
            "no git repository: .dvc/config.local has core.no_scm now; delete it after `git init`, for experiments"
        )


def end_dvc(dvc: subprocess.Popen[Any]) -> None:
    """End a dvc, which leads a group, as if by Ctrl-C: it ends by itself after its command.

    A command on a cluster has the time that the removal of its job takes. What had its time is hurried.
    """
    here = os.environ.get("HVG_CLUSTER", "local") == "local"
    seconds = JOB_SECONDS + LEAVE_SECONDS if here else CANCEL_SECONDS + REMOVAL_SECONDS + 15
    try:
        family = set(psutil.Process(dvc.pid).children(recursive=True))  # also what lies outside its group, as jobs do
    except psutil.NoSuchProcess:
        family = set()

    def left() -> set[psutil.Process]:
        return group(dvc.pid) | living(family.__contains__)

    end_group(dvc, (signal.SIGINT, seconds), (signal.SIGINT, HURRIED_SECONDS), left=left)

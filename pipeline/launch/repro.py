"""`dvc repro`, of all stages with a Prefect server for its time, or of one stage."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.launch.job import JobFailed
from pipeline.launch.remote import REMOVAL
from pipeline.launch.server import API_URL, prefect_server
from pipeline.launch.stopping import GRACE_SECONDS, JOB_SECONDS, LEAVE_SECONDS, end_dvc
from pipeline.system.tether import tethered

_DVC = [sys.executable, "-m", "dvc"]


def run_dvc_repro(state: Path, targets: Sequence[str]) -> int:
    """Run `dvc repro` and return its exit code.

    It has a process group of its own and is stopped as if by Ctrl-C, whatever ends this call: its command stops its
    job, then DVC ends, and the server last. Only with --interactive is it in front of the terminal with this process,
    to read what is typed.
    """
    asks = _given(targets, "-[a-zA-Z]*i[a-zA-Z]*|--int[a-z]*")  # also -fi
    goes_on = _given(targets, "-[a-zA-Z]*k[a-zA-Z]*|--k[a-z-]*|--ig[a-z-]*")  # --keep-going, --ignore-errors
    with prefect_server(state) as url:
        process = subprocess.Popen(
            tethered([*_DVC, "repro", *targets]),
            stdin=None if asks else subprocess.DEVNULL,  # the terminal's input is for the group in front
            env={**os.environ, **_environment(), API_URL: url},
            process_group=None if asks else 0,
        )
        try:
            return process.wait()
        except BaseException as error:
            end_dvc(process, _patience(), goes_on=goes_on, told=asks and isinstance(error, KeyboardInterrupt))
            raise


def run_dvc_stage(stage: str, options: Sequence[str], on_line: Callable[[str], Any]) -> None:
    """Bring one stage up to date and look at no other. Every line goes to `on_line` and to the terminal.

    Raises JobFailed where it fails. Any other exception stops it first.
    """
    process = subprocess.Popen(
        tethered([*_DVC, "--wait-for-lock", "repro", "--single-item", *options, "--", stage]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **_environment()},
        process_group=0,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        try:
            for line in lines:
                sys.stdout.write(line)
                sys.stdout.flush()
                if text := line.rstrip():
                    on_line(text)
            code = process.wait()
        except BaseException:
            end_dvc(process, _patience())
            raise
    if code:
        raise JobFailed(f"{stage}: dvc ended with exit code {code}", code)


def stages_of_dvc() -> list[str]:
    """The stages of the graph in this folder."""
    from dvc.repo import Repo

    with Repo() as repo:
        return [stage.addressing for stage in repo.index.stages]


def _given(targets: Sequence[str], option: str) -> bool:
    return any(re.fullmatch(option, target) for target in targets)


def _patience() -> float:
    """Seconds that a command has to end its job: one on a cluster gets TERM and is then removed."""
    if os.environ.get("HVG_CLUSTER", "local") == "local":
        return JOB_SECONDS + LEAVE_SECONDS
    return GRACE_SECONDS + 15 + REMOVAL + 15


def _environment() -> dict[str, str]:
    """DVC runs commands in the user's shell, which may be no sh, and in copies that hold no .venv."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"SHELL": "/bin/sh", "PATH": path, "DVC_NO_ANALYTICS": "true"}

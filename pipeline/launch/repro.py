"""`dvc repro` with a Prefect server for its time."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.launch.local import GRACE
from pipeline.launch.server import API_URL, prefect_server
from pipeline.tether import tethered


def run_dvc_repro(state: Path, targets: Sequence[str]) -> int:
    """Run `dvc repro` and return its exit code.

    It has a process group of its own and is stopped as if by Ctrl-C, whatever ends this call: DVC waits for its
    command, the command stops its job, and the server ends last.
    """
    with prefect_server(state) as url:
        process = subprocess.Popen(
            tethered([sys.executable, "-m", "dvc", "repro", *targets]),
            stdin=subprocess.DEVNULL,  # the terminal's input is for the group in front
            env={**os.environ, **environment(), API_URL: url},
            process_group=0,
        )
        try:
            return process.wait()
        except BaseException:
            stop(process)
            raise


def environment() -> dict[str, str]:
    """DVC runs commands in the user's shell, which may be no sh, and in copies that hold no .venv."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"SHELL": "/bin/sh", "PATH": path, "DVC_NO_ANALYTICS": "true"}


def stop(process: subprocess.Popen[Any]) -> None:
    """End a dvc that leads a process group: as by Ctrl-C, and by force where it does not end."""
    for number, seconds in ((signal.SIGINT, GRACE + 15), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return

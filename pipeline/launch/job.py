"""A stage as a torchrun job: what runs, apart from where."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import NoReturn

from pipeline.errors import Failed, UserError
from pipeline.system.machine import cores

TORCHRUN = ("-m", "pipeline.launch.torchrun")
ENDED = "HVG_ENDED"  # in the environment of a job: how the files begin in which it tells how its workers ended


class JobFailed(Failed):
    """A job that ended with another code than 0 and no UserError: `code` is its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class JobCancelled(JobFailed):
    """A job that somebody else has cancelled. They would not want it tried again."""


class DeadlineExceeded(JobFailed):
    """A job that was stopped because its time was over. Trying again would take as long."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """`module` run as a program by `workers` processes of torchrun on each of `nodes` machines."""

    module: str  # stages.train
    args: tuple[str, ...] = ()  # --level 2
    workers: int = 1
    nodes: int = 1
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the launcher's own

    def command(self) -> list[str]:
        """The torchrun command line for this machine alone, in the environment of this interpreter.

        torchrun meets itself in a file: with --standalone it would open a port to the network for that, and unpickle
        what comes from there.
        """
        assert self.nodes == 1
        return [sys.executable, *TORCHRUN, "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", *self.program()]

    def program(self) -> list[str]:
        """What follows torchrun's options that say where."""
        return ["--nproc-per-node", str(self.workers), "-m", self.module, *self.args]

    def environment(self) -> dict[str, str]:
        """What the processes on this machine find in their environment besides what they inherit.

        The cores are shared between the workers: left to itself torchrun gives each a single thread. An
        OMP_NUM_THREADS that the user has set stays.
        """
        threads = max(1, cores() // self.workers)
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), **self.everywhere()}

    def everywhere(self) -> dict[str, str]:
        """What processes on any machine find in their environment."""
        return {
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DVC_NO_ANALYTICS": "true",
            "DO_NOT_TRACK": "1",
            **self.env,
        }


def raise_failure(ended: Path, code: int, message: str) -> NoReturn:
    """Raise what a job's workers have told in the files that begin with `ended`: UserError or JobFailed.

    A user's mistake comes first, then what was first. `code` and `message` are for a job that has told nothing.
    """
    os.utime(ended.parent)  # NFS would remember for a while which files were in it
    ends = [json.loads(file.read_text()) for file in ended.parent.glob(f"{escape(ended.name)}.*")]
    if ends:
        end = min(ends, key=lambda one: (one["code"] != 2, one["time"]))
        code, message = end["code"], end["message"]
        if code == 2:
            raise UserError(message)
    raise JobFailed(message, code)

"""A stage as a torchrun job: what runs, apart from where."""

import json
import os
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import NoReturn

from pipeline.errors import Failed, UserError

ENDED = "HVG_ENDED"  # in the environment of a job: how the files begin in which it tells how its workers ended


class JobFailed(Failed):
    """A job that ended with another code than 0 and no UserError."""


class JobCancelled(JobFailed):
    """A job that somebody else has cancelled. They would not want it tried again."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """`module` run as a program by `workers` processes of torchrun on each of `nodes` machines."""

    module: str  # stages.train
    args: tuple[str, ...] = ()  # --level 2
    workers: int = 1
    nodes: int = 1

    def program(self) -> list[str]:
        """What follows torchrun's options that say where."""
        return ["--nproc-per-node", str(self.workers), "-m", self.module, *self.args]


def raise_failure(ended: Path, message: str) -> NoReturn:
    """Raise what a job's workers have told in the files that begin with `ended`: UserError or JobFailed.

    A user's mistake comes first, then what was first. `message` is for a job that has told nothing.
    """
    os.utime(ended.parent)  # NFS would remember for a while which files were in it
    ends = [json.loads(file.read_text()) for file in ended.parent.glob(f"{escape(ended.name)}.*")]
    end = min(ends, key=lambda one: (one["code"] != 2, one["time"]), default={"code": 1, "message": message})
    raise (UserError if end["code"] == 2 else JobFailed)(end["message"])

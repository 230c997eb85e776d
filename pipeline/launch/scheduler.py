"""What a cluster does with jobs: the interface that Slurm is behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.launch.job import Job

Phase = Literal["waiting", "running", "done", "failed", "cancelled", "gone"]


@dataclass(frozen=True, kw_only=True)
class State:
    """A job as its cluster sees it."""

    phase: Phase
    says: str = ""  # for a person: PENDING (Resources)
    code: int = 1  # exit code of one that failed

    @property
    def over(self) -> bool:
        return self.phase not in ("waiting", "running")


class Scheduler(Protocol):
    """What a cluster does with jobs. A job's name is unique and known before it is submitted."""

    @property
    def poll_every(self) -> float:
        """Seconds between questions for a job's state."""
        ...

    @property
    def look_every(self) -> float:
        """Seconds between looks for new lines."""
        ...

    def preview(self, job: Job, name: str) -> str:
        """Exactly what `submit` would hand over; needs no cluster."""
        ...

    def submit(self, job: Job, name: str) -> str:
        """Hand a job over: its id.

        Raises UserError with the cluster's words where it refuses, OSError where it may have taken the job or not.
        """
        ...

    def find(self, name: str) -> str | None:
        """The id of the job that bears a name, if there is one. Raises OSError while the cluster does not answer."""
        ...

    def poll(self, job_id: str, name: str) -> State:
        """How a job is doing. Raises OSError while the cluster does not answer."""
        ...

    def stream(self, name: str, seen: dict[str, str]) -> bytes:
        """What a job has printed since the last call with the same `seen`, in which the scheduler notes how far."""
        ...

    def cancel(self, job_id: str, *, now: bool) -> None:
        """TERM to a job's processes or, with `now`, remove the job. Raises OSError where it was not told."""
        ...

    def log(self, name: str) -> str:
        """Where a job's whole output is, for a person."""
        ...

    def ended(self, name: str) -> Path:
        """How the files begin in which a job's workers tell how they ended."""
        ...

    def way_out(self, job_id: str) -> str:
        """The command that ends a job."""
        ...

"""A job on a cluster: submitted, followed to its end, found again by the next process if this one dies."""

import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.launch.job import DeadlineExceeded, Job, JobCancelled, JobFailed, raise_failure
from pipeline.launch.output import Output
from pipeline.launch.records import Record, forget, note, still_there
from pipeline.launch.slurm import Slurm, State
from pipeline.launch.stopping import GRACE_SECONDS
from pipeline.progress import write_line

REMOVAL = 120.0  # seconds that a cluster may take to remove a job that it was told to kill
REMIND = 10.0  # seconds after which it is told so again
LATE = (2.0, 4.0, 8.0, 16.0)  # seconds before each question for a job whose submission got no answer


class _Late(Exception):
    """The deadline has come."""


@dataclass(kw_only=True)
class ClusterLauncher:
    """Runs jobs through Slurm."""

    slurm: Slurm
    cluster: str  # its name
    stage: str  # train-level-2: the record's name
    inputs: str  # hash of what the job runs, apart from where
    folder: Path  # of records and scripts
    grace: float = GRACE_SECONDS + 15  # from TERM to removal; the stage itself takes fewer
    log: str = "none"  # where the last job's output lies

    def preview(self, job: Job) -> str:
        """Exactly what `run` would submit."""
        return self.slurm.preview(job, f"hvg-{self.stage}")

    def run(self, job: Job, on_line: Callable[[str], None], deadline: float | None = None) -> None:
        """Run a job to its end, or wait for the one that an earlier process has submitted and that still runs.

        `deadline` is in seconds of the job's running, from its last start. Whatever ends this call, the job is over
        then: on an exception of any kind its processes get TERM and, after the grace period, the job is removed.

        Raises UserError with the stage's message or where another job is in the way, DeadlineExceeded, JobCancelled,
        or JobFailed for any other end.
        """
        following = _Following(self, on_line)
        record = self._still_there() or self._submit(job)
        try:
            self.log = self.slurm.log(record.name)
            state = following.to_the_end(record, deadline)
        except _Late:
            following.stop(record)
            minutes = f"{(deadline or 0) / 60:g}"
            raise DeadlineExceeded(f"not ready after {minutes} minutes, the deadline; stopped") from None
        except BaseException:
            following.stop(record)
            raise
        finally:
            following.output.close()
        forget(self.folder, self.stage)
        if state.phase != "done":
            if state.phase == "cancelled":
                raise JobCancelled(f"job {record.id} was cancelled ({state.says})", 143)
            raise_failure(self.slurm.ended(record.name), state.code, f"job {record.id} ended: {state.says}")

    def _submit(self, job: Job) -> Record:
        name = f"hvg-{self.stage}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        record = Record(cluster=self.cluster, name=name, id=None, inputs=self.inputs)
        note(self.folder, self.stage, record)
        try:
            job_id = self._hand_over(job, name)
        except UserError:
            forget(self.folder, self.stage)
            raise
        except JobFailed:
            raise
        except BaseException:  # Ctrl-C, perhaps between the submission and its answer
            with contextlib.suppress(OSError):
                if (found := self.slurm.find(name)) is not None:
                    self.slurm.cancel(found, now=True)
                forget(self.folder, self.stage)
            raise
        record = replace(record, id=job_id)
        note(self.folder, self.stage, record)
        return record

    def _hand_over(self, job: Job, name: str) -> str:
        """Submit a job: its id. Raises JobFailed where it is not there; one that may be there yet stays noted."""
        try:
            return self.slurm.submit(job, name)
        except OSError as error:
            write_line(f"{self.stage}: no answer to the submission ({error}); asking {self.cluster} for the job")
            silent = error
        absent = False
        for seconds in LATE:
            time.sleep(seconds)
            try:
                found = self.slurm.find(name)
            except OSError as error:
                absent, silent = False, error
                continue
            if found is not None:
                return found
            absent = True
        if absent:
            forget(self.folder, self.stage)
        raise JobFailed(f"{self.cluster} did not take the job: {silent}") from silent

    def _still_there(self) -> Record | None:
        """The job of an earlier process, where it still waits or runs. Raises UserError where it is in the way."""
        record = still_there(self.folder, self.stage, self.slurm)
        if record is None:
            return None
        assert record.id is not None
        if record.inputs != self.inputs:
            raise UserError(
                f"{self.stage}: job {record.id} of {record.cluster} still runs it with other parameters, code or "
                f"inputs: wait for it, or `{self.slurm.way_out(record.id)}`"
            )
        write_line(f"{self.stage}: job {record.id} of {record.cluster} runs it already; waiting for that one")
        return record


class _Following:
    """What is known of a job while it is waited for."""

    def __init__(self, launcher: ClusterLauncher, on_line: Callable[[str], None]) -> None:
        self.slurm, self.stage, self.grace = launcher.slurm, launcher.stage, launcher.grace
        self.folder = launcher.folder
        self.on_line = on_line
        self.output = Output(on_line)
        self.seen: dict[str, int] = {}
        self.said = ""
        self.running_since: float | None = None

    def to_the_end(self, record: Record, deadline: float | None) -> State:
        """The job's last state. Raises _Late at the deadline."""
        while True:
            state = self.look(record)
            if state is not None and state.over:
                return state
            until = time.monotonic() + self.slurm.poll_every
            while time.monotonic() < until:
                if deadline and self.running_since and time.monotonic() > self.running_since + deadline:
                    raise _Late
                time.sleep(self.slurm.look_every)
                self.read(record)

    def stop(self, record: Record) -> None:
        """TERM to a job that runs, then removal. A second Ctrl-C removes it at once."""
        assert record.id is not None
        over = False
        try:
            if self.running_since is not None:
                over = self._cancelled(record, self.grace, now=False)
        finally:
            if not over:
                over = self._cancelled(record, REMOVAL, now=True)
            if over:
                forget(self.folder, self.stage)
            else:
                write_line(f"{self.stage}: job {record.id} may still run: `{self.slurm.way_out(record.id)}`")

    def _cancelled(self, record: Record, seconds: float, *, now: bool) -> bool:
        """Tell the cluster; whether the job is over within so many seconds."""
        assert record.id is not None
        end = time.monotonic() + seconds
        told: float | None = None
        while time.monotonic() < end:
            if told is None or (now and time.monotonic() > told + REMIND):
                told = time.monotonic()
                try:
                    self.slurm.cancel(record.id, now=now)
                except OSError as error:
                    self._say(f"job {record.id} cannot be told to end: {error}")
            state = self.look(record)
            if state is not None and state.over:
                return True
            time.sleep(self.slurm.look_every)
        return False

    def look(self, record: Record) -> State | None:
        """Ask for the state and show what is new. None where there was no answer."""
        assert record.id is not None
        try:
            state = self.slurm.poll(record.id, record.name)
        except OSError as error:
            self._say(f"no answer about job {record.id}: {error}")
            return None
        self.read(record)  # after the question: of a job that is over it is everything
        if not state.over:
            self._say(f"job {record.id}: {state.says}")
        if state.phase != "running":
            self.running_since = None
        elif self.running_since is None:
            self.running_since = time.monotonic()
        return state

    def read(self, record: Record) -> None:
        """Show what the job has printed since."""
        try:
            data = self.slurm.stream(record.name, self.seen)
        except OSError as error:
            self._say(f"no log of job {record.id} for now: {error}")
        else:
            self.output.feed(data)

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            write_line(f"{self.stage}: {text}")
            self.on_line(text)

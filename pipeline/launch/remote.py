"""A job on a cluster: submitted, or found again where an earlier process has died, and followed to its end."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Failed, UserError
from pipeline.launch.job import DeadlineExceeded, Job, JobCancelled, raise_failure
from pipeline.launch.output import Output
from pipeline.launch.slurm import UNKNOWN, Slurm, State, find
from pipeline.progress import write_line
from pipeline.system.processes import undisturbed

CANCEL_SECONDS = 45.0  # from TERM to the removal of a job; the stage itself takes fewer
REMOVAL_SECONDS = 120.0  # that a cluster may take for it
LOST_SECONDS = 30.0  # that a submission may take to arrive after its answer was lost
TAIL_BYTES = 1 << 14  # of the log of a job that is found
LOOK_SECONDS = 1.0  # between looks for new lines, and at a job that is to end


@dataclass(frozen=True, kw_only=True)
class ClusterLauncher(Slurm):
    """Runs a job through Slurm."""

    grace: float = CANCEL_SECONDS

    def run(self, job: Job, on_line: Callable[[str], None], deadline: float | None = None) -> None:
        """Run a job to its end, or wait for the one that an earlier process has submitted and that still runs.

        `deadline` is in seconds of the job's running, from its last start. Whatever ends this call, the job is over
        then: on an exception of any kind its processes get TERM and, after the grace period, the job is removed.

        Raises UserError with the stage's message or where another job is in the way, DeadlineExceeded, JobCancelled,
        JobFailed for any other end, or Failed where Slurm does not answer at first.
        """
        found = find(self.stage, self.root, self.name)
        following = _Following(self, on_line)
        try:
            if found is None:
                following.submit(job)
            else:
                following.found()
                write_line(f"{self.stage}: job {found} runs it already; waiting for that one; its log: {self.log}")
            state = following.to_the_end(deadline)
        except BaseException:
            if following.there:
                following.stop(self.grace)
            raise
        finally:
            following.output.close()
        if state == UNKNOWN and self.finished():
            return
        if state.name == "CANCELLED":
            raise JobCancelled(f"{following.job} was cancelled ({state})")
        if state.name != "COMPLETED":
            raise_failure(Path(f"{self.files}.ended"), f"{following.job} ended: {state}")


class _Following:
    """What is known of a job while it is waited for."""

    def __init__(self, slurm: Slurm, on_line: Callable[[str], None]) -> None:
        self.slurm, self.on_line = slurm, on_line
        self.output = Output(on_line)
        self.read_to = slurm.log.stat().st_size if slurm.log.is_file() else 0  # bytes of the log
        self.job = f"job {slurm.name}"
        self.said = ""
        self.running_since: float | None = None
        self.there = False  # perhaps: nothing was submitted, or Slurm has refused it
        self.before: frozenset[str] = frozenset()  # the ids of earlier jobs of the name
        self.lost_until = 0.0  # until when a submission without an answer may still arrive

    def found(self) -> None:
        """The job is there already: show the last lines of what it has said meanwhile."""
        self.there = True
        file = Path(f"{self.slurm.files}.begin")
        begin = int(file.read_text()) if file.is_file() else 0
        if self.read_to - begin > TAIL_BYTES:
            with self.slurm.log.open("rb") as log:
                log.seek(self.read_to - TAIL_BYTES)
                log.readline()  # the rest of one
                begin = log.tell()
        self.read_to = begin

    def submit(self, job: Job) -> None:
        """Hand the job over, perhaps: where there is no answer, the next questions tell.

        Raises UserError where Slurm refuses it, Failed where it does not answer before.
        """
        try:
            self.before = frozenset(one.id for one in self.slurm.states() if one.over)
        except OSError as error:
            raise Failed(f"{self.slurm.stage}: Slurm does not answer which jobs there were: {error}") from error
        self.there, self.lost_until = True, math.inf
        try:
            answer = self.slurm.submit(job)
            if isinstance(answer, OSError):
                self.say(f"no answer to the submission: {answer}")
            else:
                self.job, self.lost_until = f"job {answer}", 0.0
        except UserError:
            self.there = False
            raise
        finally:
            self.lost_until = min(self.lost_until, time.monotonic() + LOST_SECONDS)

    def to_the_end(self, deadline: float | None) -> State:
        """The job's last state. Raises DeadlineExceeded."""
        while True:
            if (state := self._look()) is not None and self._ends(state):
                return state
            until = time.monotonic() + self.slurm.cluster.poll
            while time.monotonic() < until:
                if deadline and self.running_since and time.monotonic() > self.running_since + deadline:
                    raise DeadlineExceeded(f"not ready after {deadline / 60:g} minutes, the deadline; stopped")
                time.sleep(min(LOOK_SECONDS, self.slurm.cluster.poll))
                self._read()

    @undisturbed()
    def stop(self, grace: float) -> None:
        """TERM to a job that runs, then removal, told again until it is over. A second Ctrl-C removes it at once."""
        asked = [] if self.running_since is None else [(False, grace)]
        for now, seconds in [*asked, (True, REMOVAL_SECONDS)]:
            end, told = time.monotonic() + seconds, False
            with contextlib.suppress(KeyboardInterrupt):
                while time.monotonic() < end:
                    if now or not told:
                        try:
                            self.slurm.cancel(now=now)
                            told = True
                        except (OSError, UserError) as error:
                            self.say(f"{self.job} cannot be told to end: {error}")
                    if (state := self._look()) is not None and self._ends(state):
                        return
                    time.sleep(min(LOOK_SECONDS, self.slurm.cluster.poll))
        write_line(f"{self.slurm.stage}: {self.job} may still run: `scancel --name={self.slurm.name}`")

    def _ends(self, state: State) -> bool:
        return state.over and (state != UNKNOWN or time.monotonic() > self.lost_until)

    def _look(self) -> State | None:
        """Ask for the state and show what is new. None where there was no answer."""
        try:
            state = self.slurm.state(self.before)
        except (OSError, UserError) as error:  # a command that was there may be away for a while
            self.say(f"no answer about {self.job}: {error}")
            return None
        self._read()  # after the question: of a job that is over it is everything
        if state.id:
            self.job = f"job {state.id}"
        if not state.over:
            self.say(f"{self.job}: {state}")
        if not state.runs:
            self.running_since = None
        elif self.running_since is None:
            self.running_since = time.monotonic()
        return state

    def _read(self) -> None:
        """Show what the job has printed since."""
        try:
            with self.slurm.log.open("rb") as log:  # anew each time: so NFS shows what other machines have written
                log.seek(self.read_to)
                data = log.read()
        except OSError as error:
            self.say(f"no log of {self.job} for now: {error}")
            return
        self.read_to += len(data)
        self.output.feed(data)

    def say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            write_line(f"{self.slurm.stage}: {text}")
            self.on_line(text)

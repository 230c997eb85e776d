"""A job on a cluster: submitted, or found again where an earlier process has died, and followed to its end."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Failed, UserError
from pipeline.launch.job import Job, JobCancelled, raise_failure
from pipeline.launch.output import Output
from pipeline.launch.slurm import UNKNOWN, Slurm, State
from pipeline.progress import write_line
from pipeline.system.processes import undisturbed

CANCEL_SECONDS = 45.0  # from TERM to the removal of a job, which saves meanwhile
REMOVAL_SECONDS = 120.0  # that a cluster may take for it
LOST_SECONDS = 90.0  # from a submission, of which 60 may go by without an answer, until it has arrived or never will
LOOK_SECONDS = 1.0  # between looks for new lines, and at a job that is to end


@dataclass(frozen=True, kw_only=True)
class ClusterLauncher(Slurm):
    """Runs a job through Slurm."""

    grace: float = CANCEL_SECONDS

    def run(self, job: Job, on_line: Callable[[str], None]) -> None:
        """Run a job to its end, or wait for the one that an earlier process has submitted and that still runs.

        Whatever ends this call, the job is over then: on an exception of any kind its processes get TERM and, after
        the grace period, the job is removed.

        Raises UserError with the stage's message or where another job is in the way, JobCancelled, JobFailed for any
        other end, or Failed where Slurm does not answer at first.
        """
        following = _Following(self, on_line)
        found = following.found()
        try:
            if not found:
                following.submit(job)
            state = following.to_the_end()
        except UserError:  # Slurm has refused it
            raise
        except BaseException:
            following.stop(self.grace)
            raise
        finally:
            following.output.close()
        if state.name == "CANCELLED":
            raise JobCancelled(f"{following.job} was cancelled ({state})")
        if state.name != "COMPLETED" and not self.finished():
            raise_failure(Path(f"{self.files}.ended"), f"{following.job} ended: {state}")


class _Following:
    """What is known of a job while it is waited for."""

    def __init__(self, slurm: Slurm, on_line: Callable[[str], None]) -> None:
        self.slurm, self.on_line = slurm, on_line
        self.output = Output(slurm.log, on_line)
        self.job = f"job {slurm.name}"
        self.said = ""
        self.runs = False
        self.before: frozenset[str] = frozenset()  # the ids of earlier jobs of the name
        self.lost_until = 0.0  # until when a submission without an answer may still arrive

    def found(self) -> bool:
        """Whether the job is there already.

        Raises UserError where the stage has another one, which would write to the same folder; Failed where Slurm does
        not answer.
        """
        name, stage = self.slurm.name, self.slurm.stage
        try:
            jobs = self.slurm.states()
        except OSError as error:
            raise Failed(f"{stage}: Slurm does not answer whether a job runs it: {error}") from error
        living = {one.job: one.id for one in jobs if not one.over}
        for other in living.keys() - {name}:
            raise UserError(
                f"{stage}: job {living[other]} still runs it with other parameters, code or inputs: wait for it, or "
                f"`scancel {living[other]}`"
            )
        if name in living:
            write_line(f"{stage}: job {living[name]} runs it already; waiting for that one; its log: {self.slurm.log}")
        else:
            self.before = frozenset(one.id for one in jobs)
        return name in living

    def submit(self, job: Job) -> None:
        """Hand the job over, perhaps: where there is no answer, the next questions tell.

        Raises UserError where Slurm refuses it.
        """
        self.lost_until = time.monotonic() + LOST_SECONDS
        try:
            self.job, self.lost_until = f"job {self.slurm.submit(job)}", 0.0
        except OSError as error:
            self.say(f"no answer to the submission: {error}")

    def to_the_end(self) -> State:
        """The job's last state."""
        while (state := self._look()) is None or not self._ends(state):
            until = time.monotonic() + self.slurm.cluster.poll
            while time.monotonic() < until:
                time.sleep(min(LOOK_SECONDS, self.slurm.cluster.poll))
                self._show()
        return state

    @undisturbed()
    def stop(self, grace: float) -> None:
        """TERM to a job that runs, then removal, told again until it is over. A second Ctrl-C removes it at once."""
        asked = [(False, grace)] if self.runs else []
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
        self._show()  # after the question: of a job that is over it is everything
        if state != UNKNOWN:
            self.job = f"job {state.id}"
        self.runs = state.runs
        if not state.over:
            self.say(f"{self.job}: {state}")
        return state

    def _show(self) -> None:
        try:
            self.output.show()
        except OSError as error:
            self.say(f"no log of {self.job} for now: {error}")

    def say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            write_line(f"{self.slurm.stage}: {text}")
            self.on_line(text)

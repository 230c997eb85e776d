"""Slurm: a job is job.sbatch, which starts one torchrun a node. Slurm itself keeps which jobs there are, by name.

What comes from parameters, names or clusters.yaml is an argument of sbatch or in its environment; only `setup` is
shell, a file that the script sources. The environment goes as it is to the job, but for the variables of a job that
`hvg` itself runs in, and of squeue and scancel.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.launch.clusters import SlurmCluster
from pipeline.launch.job import ENDED, Job
from pipeline.paths import Paths
from pipeline.system.environment import JOB
from pipeline.system.values import fingerprint

WARNING_SECONDS = (
    120  # before the time limit: an iteration is ended and saved, and Slurm looks at the clock twice a minute
)
ANSWER_SECONDS = 60.0  # that Slurm may take
SCRIPT = Path(__file__).parent / "job.sbatch"
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # how Slurm is reached
_PASSING = re.compile(r"socket timed out|unable to contact|temporarily|try again", re.IGNORECASE)
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}


@dataclass(frozen=True)
class State:
    """A job as Slurm sees it: `str` shows it to a person."""

    id: str
    job: str  # its name
    name: str  # RUNNING
    detail: str = ""  # its nodes, or in brackets why it waits or has failed

    def __str__(self) -> str:
        return f"{self.name} {self.detail}".rstrip()

    @property
    def runs(self) -> bool:
        return self.name in _RUNNING

    @property
    def over(self) -> bool:
        return not self.runs and self.name not in _WAITING


UNKNOWN = State("", "", "UNKNOWN", "to Slurm")  # never taken, or minutes after its end, of which `finished` tells


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """The job of one stage. Its name tells of stage, checkout and inputs, so that any process finds it again.

    Of a name Slurm runs one job at a time (--dependency=singleton): one that was submitted twice, because an answer
    was lost, does no harm. Every question raises OSError while Slurm does not answer.
    """

    cluster: SlurmCluster
    root: Path  # the project's folder, absolute
    stage: str  # train-level-2
    inputs: str  # hash of what it runs, apart from where

    @property
    def name(self) -> str:
        return f"{self._prefix}{self.inputs[:12]}"

    @property
    def _prefix(self) -> str:
        """How the names of the stage's jobs begin, whatever its inputs."""
        return f"hvg-{self.stage}-{fingerprint(str(self.root))[:8]}-"

    @property
    def files(self) -> Path:
        """How the job's files begin."""
        return Paths(self.root).state / "jobs" / self.name

    @property
    def log(self) -> Path:
        """All that jobs of this name have printed."""
        return Paths(self.root).state / "logs" / f"{self.name}.log"

    def preview(self, job: Job) -> str:
        """Exactly what `submit` would hand over; needs no cluster."""
        values = shlex.join(f"{key}={value}" for key, value in self.environment(job).items())
        return "\n".join([f"# {values} {shlex.join(self.command(job))}", *self.cluster.setup, SCRIPT.read_text()])

    def environment(self, job: Job) -> dict[str, str]:
        """What sbatch finds in its environment, and hands on, besides what it inherits."""
        ours = {"HVG_FOLDER": str(self.root), "HVG_FILES": str(self.files), "HVG_WORKERS": str(job.workers)}
        ours |= {"HVG_REQUEUE": str(int(self.cluster.requeue)), ENDED: f"{self.files}.ended", JOB: self.name}
        return {"PYTHONUNBUFFERED": "1", **ours}

    def command(self, job: Job) -> list[str]:
        """The sbatch command line. The last ones of its options count, before SBATCH_* of the environment."""
        c = self.cluster
        given = {"partition": c.partition, "account": c.account, "time": c.time}
        given |= {"cpus-per-task": c.cpus_per_task, "gpus-per-node": c.gpus_per_node}
        return [
            "sbatch",
            *c.sbatch,
            "--parsable",
            "--dependency=singleton",
            "--ntasks-per-node=1",
            "--open-mode=append",
            "--export=ALL",
            f"--job-name={self.name}",
            f"--nodes={job.nodes}",
            *(f"--{option}={value}" for option, value in given.items() if value is not None),
            "--requeue" if c.requeue else "--no-requeue",
            f"--signal=B:USR1@{WARNING_SECONDS}",
            f"--chdir={self.root}",
            f"--output={str(self.log).replace('%', '%%')}",  # Slurm replaces what follows one
            str(SCRIPT),
            sys.executable,
            *job.program(),
        ]

    def submit(self, job: Job) -> str:
        """Hand the job over. Returns its id.

        Raises UserError with Slurm's words where it refuses, or where it could not write the log; OSError where Slurm
        may have taken it or not.
        """
        if "\\" in str(self.root):
            raise UserError(f"{self.root}: Slurm opens no log in a folder with a backslash; rename it")
        try:
            for file in (self.log, self.files):
                file.parent.mkdir(parents=True, exist_ok=True)
            for old in self.files.parent.glob(f"{self.name}.*"):  # how an earlier job of this name ended
                if old.is_file():
                    old.unlink()
            Path(f"{self.files}.setup").write_text("\n".join([*self.cluster.setup, ""]))
            self.log.touch()  # NFS remembers for a while that a file was not there
        except OSError as error:
            raise UserError(f"{self.files.parent} cannot be written: {error}") from error
        try:
            return _ask(self.command(job), self.environment(job)).strip().partition(";")[0]  # then a cluster's name
        except OSError as error:
            if isinstance(error, TimeoutError) or _PASSING.search(str(error)):
                raise
            raise UserError(f"Slurm refuses the job: {error}") from error

    def states(self) -> list[State]:
        """The stage's jobs in this checkout, whatever its inputs, also those that have ended minutes ago."""
        told = _ask(["squeue", "--me", "--all", "--states=all", "--noheader", "--format=%A %j %T %R"])
        return [State(*line.split(maxsplit=3)) for line in told.splitlines() if f" {self._prefix}" in line]

    def state(self, before: frozenset[str] = frozenset()) -> State:
        """How the job is doing; of several of its name, without those `before`, the one not over, or the last."""
        states = [one for one in self.states() if one.job == self.name and one.id not in before]
        return max(states, key=lambda one: (not one.over, int(one.id)), default=UNKNOWN)

    def finished(self) -> bool:
        """Whether the job's last start ended well, as its script has noted; Slurm may have forgotten the job."""
        code = Path(f"{self.files}.code")
        os.utime(code.parent)  # NFS would remember for a while that the file was not there
        return code.is_file() and code.read_text() == "0\n"

    def cancel(self, *, now: bool) -> None:
        """TERM to the job's steps, for which its script waits, or, with `now`, remove the job."""
        _ask(["scancel", *([] if now else ["--signal=TERM"]), f"--name={self.name}"])


def _ask(command: list[str], env: dict[str, str] | None = None) -> str:
    """What one of Slurm's commands prints. Raises UserError where there is no Slurm, OSError where it fails."""
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]}: not on this machine; run hvg where jobs are submitted")
    # Without what would send a command to another cluster, or a job the variables of another one, and without the
    # user's filters, formats and questions.
    out = {name for name in os.environ if name.startswith(("SLURM_", "SQUEUE_", "SCANCEL_"))} - _KEPT
    out.add("SBATCH_CLUSTERS")
    inherited = {name: value for name, value in os.environ.items() if name not in out}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
            env={**inherited, **(env or {})},
            process_group=0,  # the terminal's Ctrl-C is for this process, which then cancels the job
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} took more than {ANSWER_SECONDS:g} s") from error
    if done.returncode:
        raise OSError(" ".join(done.stderr.split())[:500])
    return done.stdout

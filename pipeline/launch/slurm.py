"""Slurm: a job is job.sbatch, which starts one torchrun a node.

What comes from parameters, names or clusters.yaml is an argument of sbatch or in its environment; only `setup` is
shell, a file that the script sources. The environment goes as it is to the job (sbatch --export=ALL), but for the
variables of a job that `hvg` itself runs in.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.launch.clusters import SlurmCluster
from pipeline.launch.job import ENDED, Job
from pipeline.paths import origin
from pipeline.system.stage import JOB

WARNING_SECONDS = 120  # before the time limit: TERM takes a stage 20, and Slurm looks at the clock twice a minute
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # how Slurm is reached
_PASSING = re.compile(r"socket timed out|unable to contact|temporarily|try again", re.IGNORECASE)
_ANSWER = 60.0  # seconds that Slurm may take
_TAIL = 1 << 14  # bytes of the log of a job that runs already
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
Phase = Literal["waiting", "running", "done", "failed", "cancelled", "gone"]
SCRIPT = Path(__file__).parent / "job.sbatch"


@dataclass(frozen=True, kw_only=True)
class State:
    """A job as Slurm sees it."""

    phase: Phase
    says: str = ""  # for a person: PENDING (Resources)
    code: int = 1  # exit code of one that failed

    @property
    def over(self) -> bool:
        return self.phase not in ("waiting", "running")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What Slurm does with jobs. A job's name is unique and known before it is submitted.

    Files of a job lie in `jobs`, what it prints in `logs`, both below `root`, the project's folder. Every question
    raises OSError while Slurm does not answer.
    """

    cluster: SlurmCluster
    root: Path
    jobs: Path  # relative to root
    logs: Path

    @property
    def poll_every(self) -> float:
        """Seconds between questions for a job's state."""
        return self.cluster.poll

    @property
    def look_every(self) -> float:
        """Seconds between looks for new lines."""
        return min(0.5, self.cluster.poll)

    def preview(self, job: Job, name: str) -> str:
        """Exactly what `submit` would hand over; needs no cluster."""
        values = shlex.join(f"{key}={value}" for key, value in self.environment(job, name).items())
        setup = "".join(f"{line}\n" for line in self.cluster.setup)
        return f"# {values} {shlex.join(self.command(job, name))}\n{setup}{SCRIPT.read_text()}"

    def environment(self, job: Job, name: str) -> dict[str, str]:
        """What sbatch finds in its environment, and hands on, besides what it inherits."""
        ours = {"HVG_FOLDER": str(self.root), "HVG_FILES": str(self._files(name)), "HVG_WORKERS": str(job.workers)}
        ours |= {"HVG_REQUEUE": str(int(self.cluster.requeue)), ENDED: str(self.ended(name)), JOB: name}
        return {**job.everywhere(), **ours}

    def command(self, job: Job, name: str) -> list[str]:
        """The sbatch command line. Our options come last, and the last ones count."""
        c = self.cluster
        given = {"partition": c.partition, "account": c.account, "time": c.time}
        given |= {"cpus-per-task": c.cpus_per_task, "gpus-per-node": c.gpus_per_node}
        return [
            "sbatch",
            *c.sbatch,
            "--parsable",
            f"--job-name={name}",
            f"--nodes={job.nodes}",
            "--ntasks-per-node=1",
            *(f"--{option}={value}" for option, value in given.items() if value is not None),
            "--requeue" if c.requeue else "--no-requeue",
            f"--signal=B:USR1@{WARNING_SECONDS}",
            "--open-mode=append",
            f"--chdir={self.root}",
            f"--output={str(self.root / self.log(name)).replace('%', '%%')}",  # Slurm replaces what follows one
            "--export=ALL",
            str(SCRIPT),
            *self._srun(),
            "--",
            c.python or ("python" if c.container else sys.executable),
            *job.program(),
        ]

    def _srun(self) -> list[str]:
        c = self.cluster
        options = (
            [] if c.cpus_per_task is None else [f"--cpus-per-task={c.cpus_per_task}"]
        )  # not taken over from sbatch
        if c.container is not None:
            whole = origin(self.root)  # of an experiment's copy, too: what outlives the copy lies beside it
            mounts = ",".join([f"{whole}:{whole}", *c.mounts])
            options += [f"--container-image={c.container}", f"--container-mounts={mounts}"]
            options.append(f"--container-workdir={self.root}")
        return options

    def submit(self, job: Job, name: str) -> str:
        """Hand a job over: its id.

        Raises UserError with Slurm's words where it refuses, OSError where it may have taken the job or not.
        """
        if "\\" in str(self.root):
            raise UserError(f"{self.root}: Slurm opens no log in a folder with a backslash; rename it")
        for folder in (self.jobs, self.logs):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        Path(f"{self._files(name)}.setup").write_text("".join(f"{line}\n" for line in self.cluster.setup))
        (self.root / self.log(name)).touch()  # NFS remembers for a while that a file was not there
        done = _run(self.command(job, name), self.environment(job, name))
        if done.returncode and _PASSING.search(done.stderr):
            raise OSError(_one_line(done.stderr))
        if done.returncode:
            raise UserError(f"Slurm refuses the job: {_one_line(done.stderr)}")
        job_id = done.stdout.strip().partition(";")[0]  # what follows is a cluster's name
        if not job_id.isdecimal():
            raise UserError(f"sbatch gave no job's id but {_one_line(done.stdout)!r}: look at sbatch in clusters.yaml")
        return job_id

    def find(self, name: str) -> str | None:
        """The id of the job that bears a name, if there is one."""
        done = _run(["squeue", "--noheader", f"--name={name}", "--format=%A"])
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return done.stdout.split()[0] if done.stdout.split() else None

    def poll(self, job_id: str, name: str) -> State:
        """How a job is doing."""
        done = _run(["scontrol", "show", "job", "--oneliner", job_id])
        if done.returncode and "Invalid job id" in done.stderr:
            return self._forgotten(name)
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return parse(done.stdout)

    def _forgotten(self, name: str) -> State:
        """The end of a job that Slurm has forgotten, by the code that its script has left."""
        says = "Slurm no longer knows it"
        code = Path(f"{self._files(name)}.code")
        if not code.is_file():
            return State(phase="gone", says=says)
        number = int(code.read_text())
        if number == 0:
            return State(phase="done", says=says)
        return State(phase="failed", says=f"{says}, and it ended with exit code {number}", code=number)

    def stream(self, name: str, seen: dict[str, int]) -> bytes:
        """What a job has printed since the last call with the same `seen`, which notes how far it was read."""
        file = self.root / self.log(name)
        if not file.is_file():
            seen.setdefault(name, 0)
            return b""
        late = name not in seen and file.stat().st_size > _TAIL  # the job of an earlier process: what it said last
        begin = file.stat().st_size - _TAIL if late else seen.get(name, 0)
        with file.open("rb") as opened:  # opened anew each time: so NFS shows what other machines have written
            opened.seek(begin)
            data = opened.read()
        seen[name] = begin + len(data)
        return data.partition(b"\n")[2] if late else data

    def cancel(self, job_id: str, *, now: bool) -> None:
        """TERM to a job's steps, for which its script waits, or, with `now`, remove the job."""
        done = _run(["scancel", *([] if now else ["--signal=TERM"]), job_id])
        if done.returncode and not re.search("invalid job id|already complet", done.stderr, re.IGNORECASE):
            raise OSError(_one_line(done.stderr))

    def log(self, name: str) -> str:
        """Where a job's whole output is."""
        return str(self.logs / f"{name}.log")

    def ended(self, name: str) -> Path:
        """How the files begin in which a job's workers tell how they ended."""
        return Path(f"{self._files(name)}.ended")

    def _files(self, name: str) -> Path:
        """How a job's files begin."""
        return self.root / self.jobs / name

    def way_out(self, job_id: str) -> str:
        """The command that ends a job."""
        return f"scancel {job_id}"


def parse(shown: str) -> State:
    """The state in what `scontrol show job --oneliner` prints. The first of a key's places counts: paths come last."""
    values: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", shown):
        values.setdefault(key, value)
    name, reason = values.get("JobState", ""), values.get("Reason", "None")
    says = name if reason == "None" else f"{name} ({reason})"
    restarts = int(values.get("Restarts", "0"))
    code = int(values.get("ExitCode", "1:0").partition(":")[0]) or 1
    if name in _WAITING:
        again = f", begun anew {restarts} times" if restarts else ""
        return State(phase="waiting", says=says + again)
    if name in _RUNNING:
        return State(phase="running", says=f"{name} on {values.get('NodeList', '?')}")
    ends: dict[str, Phase] = {"COMPLETED": "done", "CANCELLED": "cancelled"}
    return State(phase=ends.get(name, "failed"), says=says, code=code)


def _run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands. Raises UserError where there is no Slurm, OSError where it takes too long."""
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]}: not on this machine; run hvg where jobs are submitted")
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER,
            env={**_environment(), **(env or {})},
            process_group=0,  # the terminal's Ctrl-C is for this process, which then cancels the job
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{command[0]} took more than {_ANSWER:g} s") from error


def _environment() -> dict[str, str]:
    """The environment without what would send a command to another cluster, or a job the variables of another one."""
    out = {name for name in os.environ if name.startswith("SLURM_")} - _KEPT | {"SBATCH_CLUSTERS"}
    return {name: value for name, value in os.environ.items() if name not in out}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]

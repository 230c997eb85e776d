"""Slurm: a job is an sbatch script that starts one torchrun a node.

What comes from parameters, names or clusters.yaml is an argument of sbatch, or stands quoted in the script; only
`setup` is shell by purpose. The environment goes as it is to the job (sbatch --export=ALL), but for the variables of a
job that `hvg` itself runs in, and never into the script.
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
from pipeline.launch.job import TORCHRUN, Job
from pipeline.launch.output import BEGIN
from pipeline.launch.scheduler import Phase, State
from pipeline.paths import origin
from pipeline.stage import JOB, LABELLED, LAST_WORD

WARNING = 120  # seconds before the time limit: TERM takes a stage 30, and Slurm looks at the clock twice a minute
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # how Slurm is reached
_PASSING = re.compile(r"socket timed out|unable to contact|temporarily|try again", re.IGNORECASE)
_ANSWER = 60.0  # seconds that Slurm may take
_TAIL = 1 << 14  # bytes of the log of a job that runs already
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_SCRIPT = """\
#!/bin/bash
# One torchrun a node. Before the time limit the stage gets TERM and saves what it has; then the job is queued again.
printf '{begin}%s\\n' "${{SLURM_RESTART_COUNT:-0}}"
cd -- {folder} || exit 1
rm -f -- {code}
{setup}head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HVG_HEAD=$(scontrol show node "$head" | sed -n 's/^ *NodeAddr=\\([^ ]*\\).*/\\1/p')
export HVG_PORT=$((20000 + (SLURM_JOB_ID * 7 + ${{SLURM_RESTART_COUNT:-0}}) % 12000))
threads=$((${{SLURM_CPUS_PER_TASK:-${{SLURM_CPUS_ON_NODE:-1}}}} / {workers}))
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}}
warned=
trap 'warned=1; echo "the time limit is near"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
ended=
trap 'ended=1' TERM  # it is for the stage: wait for its end
# A session of its own: TERM for the job would make srun kill the stage at once. The code goes to a file for when Slurm
# no longer knows the job, and because bash may lose it where a signal comes as the step ends.
setsid bash -c {keep} hvg {code} {srun} bash -c {node} {argv} &
step=$!
wait "$step"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do
    wait "$step"
    code=$?
done
[ ! -s {code} ] || read -r code < {code}
rm -rf -- {scratch}
{requeue}if [ "$code" -ne 0 ] && [ -z "$ended" ] && ! timeout 60 {probe} true 2>/dev/null; then
    echo "a node does not answer: waiting for Slurm to notice"
    trap - TERM
    sleep 900
fi
exit "$code"
"""
_REQUEUE = """\
if [ -n "$warned" ] && [ "$code" -ne 0 ]; then
    trap - TERM
    scontrol requeue "$SLURM_JOB_ID" && { sleep 600; exit "$code"; }  # until Slurm ends it
fi
"""
# Its arguments: the interpreter, then torchrun's and the stage's.
_NODE = (
    f'export {LABELLED}="$SLURMD_NODENAME rank \\${{rank}}: "; '
    f'exec "$1" {shlex.join(TORCHRUN)} --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" '
    '--master-addr "$HVG_HEAD" --master-port "$HVG_PORT" "${@:2}"'
)


# Its arguments: the file, then the command.
_KEEP = '"${@:2}"; code=$?; echo "$code" > "$1"; exit "$code"'


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A scheduler; scripts lie in `jobs`, what jobs print in `logs`, both below `root`, the project's folder."""

    cluster: SlurmCluster
    root: Path
    jobs: Path  # relative to root
    logs: Path

    @property
    def poll_every(self) -> float:
        return self.cluster.poll

    @property
    def look_every(self) -> float:
        return min(0.5, self.cluster.poll)

    def preview(self, job: Job, name: str) -> str:
        return f"# {shlex.join(self.command(job, name))}\n{self.script(job, name)}"

    def command(self, job: Job, name: str) -> list[str]:
        """The sbatch command line. Ours come last, and the last ones count."""
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
            f"--signal=B:USR1@{WARNING}",
            "--open-mode=append",
            f"--chdir={self.root}",
            f"--output={str(self.root / self.log(name)).replace('%', '%%')}",  # Slurm replaces what follows one
            "--export=ALL",
            str(self.root / self.jobs / f"{name}.sh"),
        ]

    def script(self, job: Job, name: str) -> str:
        """The batch script."""
        c = self.cluster
        scratch = str(self.root / self.jobs / f"{name}.torchrun")  # torchrun's copies of what its workers print
        python = c.python or ("python" if c.container else sys.executable)
        argv = ["hvg", python, "--tee", "3", "--log-dir", scratch, *job.program()]
        srun = ["srun", f"--nodes={job.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--export=ALL"]
        if c.cpus_per_task is not None:
            srun.append(f"--cpus-per-task={c.cpus_per_task}")  # which srun does not take over from sbatch
        if c.container is not None:
            whole = origin(self.root)  # of an experiment's copy, too: what outlives the copy lies beside it
            mounts = ",".join([f"{whole}:{whole}", *c.mounts])
            srun += [f"--container-image={c.container}", f"--container-mounts={mounts}"]
            srun.append(f"--container-workdir={self.root}")
        return _SCRIPT.format(
            begin=BEGIN.replace(LAST_WORD, "\\036"),
            code=shlex.quote(str(self._code(name))),
            folder=shlex.quote(str(self.root)),
            setup="".join(f"{line}\n" for line in c.setup),
            workers=job.workers,
            srun=shlex.join(srun),
            keep=shlex.quote(_KEEP),
            node=shlex.quote(_NODE),
            argv=shlex.join(argv),
            scratch=shlex.quote(scratch),
            requeue=_REQUEUE if c.requeue else "",
            probe=f"srun --overlap --nodes={job.nodes} --ntasks-per-node=1",
        )

    def submit(self, job: Job, name: str) -> str:
        if "\\" in str(self.root):
            raise UserError(f"{self.root}: Slurm opens no log in a folder with a backslash; rename it")
        for folder in (self.jobs, self.logs):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / self.jobs / f"{name}.sh").write_text(self.script(job, name))
        (self.root / self.log(name)).touch()  # NFS remembers for a while that a file was not there
        done = _run(self.command(job, name), {**job.everywhere(), JOB: name})
        if done.returncode and _PASSING.search(done.stderr):
            raise OSError(_one_line(done.stderr))
        if done.returncode:
            raise UserError(f"Slurm refuses the job: {_one_line(done.stderr)}")
        job_id = done.stdout.strip().partition(";")[0]  # what follows is a cluster's name
        if not job_id.isdecimal():
            raise UserError(f"sbatch gave no job's id but {_one_line(done.stdout)!r}: look at sbatch in clusters.yaml")
        return job_id

    def find(self, name: str) -> str | None:
        done = _run(["squeue", "--noheader", f"--name={name}", "--format=%A"])
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return done.stdout.split()[0] if done.stdout.split() else None

    def poll(self, job_id: str, name: str) -> State:
        done = _run(["scontrol", "show", "job", "--oneliner", job_id])
        if done.returncode and "Invalid job id" in done.stderr:
            return self._forgotten(name)
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return parse(done.stdout)

    def _forgotten(self, name: str) -> State:
        """The end of a job that Slurm has forgotten, by the code that its script has left."""
        says = "Slurm no longer knows it"
        code = self._code(name)
        if not code.is_file():
            return State(phase="gone", says=says)
        number = int(code.read_text())
        if number == 0:
            return State(phase="done", says=says)
        return State(phase="failed", says=f"{says}, and it ended with exit code {number}", code=number)

    def stream(self, name: str, seen: dict[str, str]) -> bytes:
        file = self.root / self.log(name)
        if not file.is_file():
            seen.setdefault(name, "0")
            return b""
        late = name not in seen and file.stat().st_size > _TAIL  # the job of an earlier process: what it said last
        begin = file.stat().st_size - _TAIL if late else int(seen.get(name, "0"))
        with file.open("rb") as opened:  # opened anew each time: so NFS shows what other machines have written
            opened.seek(begin)
            data = opened.read()
        seen[name] = str(begin + len(data))
        return data.partition(b"\n")[2] if late else data

    def cancel(self, job_id: str, *, now: bool) -> None:
        # The signal reaches the steps, not the batch script, which waits for them.
        done = _run(["scancel", *([] if now else ["--signal=TERM"]), job_id])
        if done.returncode and not re.search("invalid job id|already complet", done.stderr, re.IGNORECASE):
            raise OSError(_one_line(done.stderr))

    def log(self, name: str) -> str:
        return str(self.logs / f"{name}.log")

    def _code(self, name: str) -> Path:
        return self.root / self.jobs / f"{name}.code"

    def way_out(self, job_id: str) -> str:
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

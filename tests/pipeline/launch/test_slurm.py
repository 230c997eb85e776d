"""What is handed to Slurm: a script compared with a golden file, run with stand-ins, and states read."""

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.launch.clusters import SlurmCluster
from pipeline.launch.job import Job
from pipeline.launch.slurm import SCRIPT, Slurm, State, parse

HERE = Path(__file__).parent
HOSTILE = "a; touch pwned $(touch pwned) `touch pwned` 'x\" %j"
SHOWN = (
    "JobId=3 JobName=hvg-train UserId=root(0) Priority=1 JobState={state} Reason={reason} Dependency=(null) Requeue=1 "
    "Restarts={restarts} BatchFlag=1 ExitCode={code}:0 Partition=main NodeList=node[1-2] BatchHost=node1 "
    "Comment=JobState=COMPLETED WorkDir=/x JobState=FAILED\n"
)


def slurm(root: Path = Path("/projects/hvg"), **values) -> Slurm:
    cluster = SlurmCluster(launcher="slurm", **{"python": "python", **values})
    return Slurm(cluster=cluster, root=root, jobs=Path(".hvg/jobs"), logs=Path(".hvg/logs"))


def test_what_sbatch_is_given():
    scheduler = slurm(
        partition="a100",
        account="vision",
        gpus_per_node=4,
        cpus_per_task=32,
        time="12:00:00",
        sbatch=("--constraint=nvlink",),
        setup=("module load cuda",),
        container="image.sqsh",
        mounts=("/datasets:/datasets",),
    )
    job = Job(module="stages.train", args=("--level", "2"), workers=4, nodes=2)
    assert scheduler.command(job, "n") == [
        "sbatch",
        "--constraint=nvlink",
        "--parsable",
        "--job-name=n",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--partition=a100",
        "--account=vision",
        "--time=12:00:00",
        "--cpus-per-task=32",
        "--gpus-per-node=4",
        "--requeue",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--chdir=/projects/hvg",
        "--output=/projects/hvg/.hvg/logs/n.log",
        "--export=ALL",
        str(SCRIPT),
        "--cpus-per-task=32",
        "--container-image=image.sqsh",
        "--container-mounts=/projects/hvg:/projects/hvg,/datasets:/datasets",
        "--container-workdir=/projects/hvg",
        "--",
        "python",
        "--nproc-per-node",
        "4",
        "-m",
        "stages.train",
        "--level",
        "2",
    ]
    given = scheduler.environment(job, "n")
    ours = {name: value for name, value in given.items() if name.startswith("HVG_")}
    files = "/projects/hvg/.hvg/jobs/n"
    assert ours == {
        "HVG_FOLDER": "/projects/hvg",
        "HVG_FILES": files,
        "HVG_WORKERS": "4",
        "HVG_REQUEUE": "1",
        "HVG_ENDED": f"{files}.ended",
        "HVG_JOB": "n",
    }
    shown = scheduler.preview(job, "n")
    assert shown.splitlines()[1] == "module load cuda" and shown.endswith(SCRIPT.read_text())
    once = slurm(requeue=False)
    assert "--no-requeue" in once.command(job, "n") and once.environment(job, "n")["HVG_REQUEUE"] == "0"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("shellcheck") and "CI" not in os.environ, reason="not installed: shellcheck")
def test_the_script_is_clean():
    shellcheck = shutil.which("shellcheck")
    assert shellcheck is not None
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def stand_ins(folder: Path) -> dict[str, str]:
    """An environment in which srun starts one node's share, and the interpreter writes down what it is given."""
    programs = {
        "scontrol": 'case "$2" in hostnames) echo node1;; node) echo "   NodeAddr=10.0.0.7 NodeHostName=n";; esac',
        "srun": 'printf "%s\\0" "$@" > srun.args; while [ "$1" != bash ]; do shift; done; exec "$@"',
        "timeout": "exit 0",  # all nodes answer
        HOSTILE.replace("/", ""): f'printf "%s\\0" "$@" > python.args; exit {7}',
    }
    (folder / "bin").mkdir()
    for name, body in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    given = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURMD_NODENAME": "node2", **given}


def submitted(scheduler: Slurm, job: Job, name: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A job's script, run to its end as sbatch would run it."""
    (scheduler.root / scheduler.jobs).mkdir(parents=True, exist_ok=True)
    setup = scheduler.root / scheduler.jobs / f"{name}.setup"
    setup.write_text("".join(f"{line}\n" for line in scheduler.cluster.setup))
    command = scheduler.command(job, name)
    command = ["/bin/bash", *command[command.index(str(SCRIPT)) :]]
    env = {**scheduler.environment(job, name), **env}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_no_value_reaches_a_shell(tmp_path):
    """The script runs with names in it that are commands: every one arrives as it is, and the exit code comes back."""
    root = tmp_path / HOSTILE
    env = stand_ins(tmp_path)
    scheduler = slurm(
        root, python=HOSTILE, partition=HOSTILE, account=HOSTILE, container=HOSTILE, mounts=(HOSTILE,), cpus_per_task=8
    )
    job = Job(module="stages.train", args=("--level", HOSTILE), workers=2, nodes=2)
    done = submitted(scheduler, job, "hvg-x", env)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert sorted(file.name for file in root.iterdir()) == [".hvg", "python.args", "srun.args"]
    assert (root / ".hvg/jobs/hvg-x.code").read_text() == "7\n"
    srun = (root / "srun.args").read_text().split("\0")
    assert f"--container-image={HOSTILE}" in srun
    assert f"--container-mounts={root}:{root},{HOSTILE}" in srun
    scratch = str(root / ".hvg/jobs/hvg-x.torchrun")
    torchrun = ["-m", "pipeline.launch.torchrun", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.7"]
    torchrun += ["--master-port", "20035", "--tee", "3", "--log-dir", scratch, "--nproc-per-node", "2"]
    stage = ["-m", "stages.train", "--level", HOSTILE]
    assert (root / "python.args").read_text().split("\0")[:-1] == [*torchrun, *stage]
    command = scheduler.command(job, "hvg-x")
    assert {f"--partition={HOSTILE}", f"--account={HOSTILE}", f"--chdir={root}"} <= set(command)
    assert f"--output={str(root).replace('%', '%%')}/.hvg/logs/hvg-x.log" in command
    shown = shlex.split(scheduler.preview(job, "hvg-x").splitlines()[0], comments=False)
    assert shown[-len(command) :] == command


def test_sbatch_gets_the_environment_and_the_script_does_not(tmp_path, monkeypatch):
    env = stand_ins(tmp_path)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\necho '12;cluster'\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", env["PATH"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:s3cret@host")
    scheduler = slurm(tmp_path)
    assert scheduler.submit(Job(module="stages.train", env={"OF_THE_JOB": "1"}), "hvg-x") == "12"
    given = (tmp_path / "env").read_text()
    for line in ("MLFLOW_TRACKING_URI=https://me:s3cret@host", "OF_THE_JOB=1", "HVG_JOB=hvg-x", "PYTHONUNBUFFERED=1"):
        assert f"\n{line}\n" in f"\n{given}"
    assert "s3cret" not in "".join(file.read_text() for file in (tmp_path / ".hvg/jobs").iterdir())
    assert "s3cret" not in scheduler.preview(Job(module="stages.train"), "hvg-x")


def test_a_refused_job_is_a_users_mistake(tmp_path, monkeypatch):
    env = stand_ins(tmp_path)
    (tmp_path / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition\nspecified: x' >&2; exit 1"
    )
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", env["PATH"])
    with pytest.raises(UserError, match="Slurm refuses the job: sbatch: error: invalid partition specified: x"):
        slurm(tmp_path).submit(Job(module="stages.train"), "hvg-x")


def test_an_answer_without_a_jobs_id_is_no_job(tmp_path, monkeypatch):
    env = stand_ins(tmp_path)
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 0")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", env["PATH"])
    with pytest.raises(UserError, match="sbatch gave no job's id but ''"):
        slurm(tmp_path).submit(Job(module="stages.train"), "hvg-x")


@pytest.mark.parametrize("name", ["back\\slash"])
def test_a_folder_that_slurm_cannot_write_in_is_named(tmp_path, name):
    with pytest.raises(UserError, match="backslash"):
        slurm(tmp_path / name).submit(Job(module="stages.train"), "hvg-x")


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in beside the others."""
    file = folder / "bin" / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def ran(folder: Path, env: dict[str, str], **values) -> subprocess.CompletedProcess[str]:
    """A job's script, run to its end in a folder with stand-ins."""
    return submitted(slurm(folder, **values), Job(module="stages.train"), "n", env)


def test_setup_is_shell_that_the_script_sources(tmp_path):
    env = stand_ins(tmp_path)
    program(tmp_path, "python", 'echo "$OF_THE_SITE $OMP_NUM_THREADS"')
    done = ran(tmp_path, env | {"SLURM_CPUS_ON_NODE": "6"}, setup=("OF_THE_SITE=$((1 + 1))", "export OF_THE_SITE"))
    assert (done.returncode, done.stdout) == (0, "2 6\n")


def test_a_job_whose_node_is_silent_ends_with_the_stages_code(tmp_path):
    env = stand_ins(tmp_path)
    program(tmp_path, "python", "exit 7")
    program(tmp_path, "timeout", "exit 1")
    program(tmp_path, "sleep", "echo slept $1")
    done = ran(tmp_path, env)
    assert done.stdout.split("\n")[:-1] == ["a node does not answer: waiting for Slurm to notice", "slept 900"]
    assert done.returncode == 7
    assert (tmp_path / ".hvg/jobs/n.code").read_text() == "7\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_warned_job_ends_with_the_stages_code(tmp_path, code):
    """Also where Slurm does not end it after the request, and where the warning comes as the stage ends."""
    env = stand_ins(tmp_path)
    program(tmp_path, "python", f"kill -USR1 $(ps -o ppid= $PPID); exit {code}")
    program(tmp_path, "sleep", "echo slept $1")
    program(tmp_path, "scancel", "exit 0")
    done = ran(tmp_path, env)
    assert done.returncode == code
    lines = ["the time limit is near", *(["slept 600"] if code else [])]
    assert done.stdout.split("\n")[:-1] == lines
    assert (tmp_path / ".hvg/jobs/n.code").read_text() == f"{code}\n"


def answers(folder: Path, monkeypatch, name: str, body: str) -> None:
    """One of Slurm's commands answers so."""
    monkeypatch.setenv("PATH", stand_ins(folder)["PATH"])
    program(folder, name, body)


@pytest.mark.parametrize("said", ["Socket timed out on send/recv", "Unable to contact slurm controller"])
def test_a_slurm_out_of_reach_is_no_users_mistake(tmp_path, monkeypatch, said):
    answers(tmp_path, monkeypatch, "sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(OSError, match=said):
        slurm(tmp_path).submit(Job(module="stages.train"), "n")
    assert (tmp_path / ".hvg/logs/n.log").read_bytes() == b""


def test_a_job_gets_nothing_of_the_job_that_submits_it(tmp_path, monkeypatch):
    answers(tmp_path, monkeypatch, "sbatch", f"env > {tmp_path}/env; echo 12")
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_CONF", "SLURM_JWT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    slurm(tmp_path).submit(Job(module="stages.train"), "n")
    given = (tmp_path / "env").read_text().splitlines()
    assert sorted(line for line in given if "SLURM" in line or "SBATCH" in line) == ["SLURM_CONF=x", "SLURM_JWT=x"]
    assert "LC_ALL=C.UTF-8" in given


@pytest.mark.parametrize(
    ("code", "phase"),
    [("0\n", State(phase="done")), ("3\n", State(phase="failed", code=3)), (None, State(phase="gone"))],
)
def test_a_job_that_slurm_has_forgotten_has_left_its_code(tmp_path, monkeypatch, code, phase):
    answers(tmp_path, monkeypatch, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    if code is not None:
        (tmp_path / ".hvg/jobs").mkdir(parents=True)
        (tmp_path / ".hvg/jobs/n.code").write_text(code)
    found = slurm(tmp_path).poll("12", "n")
    assert (found.phase, found.code) == (phase.phase, phase.code)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Kill job error on job id 12: Invalid job id specified", True),
        ("Kill job error on job id 12: Job/step already completing or completed", True),
        ("Unable to contact slurm controller", False),
    ],
)
def test_what_scancel_answers(tmp_path, monkeypatch, said, told):
    answers(tmp_path, monkeypatch, "scancel", f"echo 'scancel: error: {said}' >&2; exit 1")
    with contextlib.nullcontext() if told else pytest.raises(OSError, match=said):
        slurm(tmp_path).cancel("12", now=True)


def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch: not on this machine"):
        slurm(tmp_path).submit(Job(module="stages.train"), "hvg-x")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (("PENDING", "Resources", 0, 0), State(phase="waiting", says="PENDING (Resources)")),
        (
            ("PENDING", "BeginTime", 2, 0),
            State(phase="waiting", says="PENDING (BeginTime), begun anew 2 times"),
        ),
        (("RUNNING", "None", 0, 0), State(phase="running", says="RUNNING on node[1-2]")),
        (("COMPLETING", "None", 1, 0), State(phase="running", says="COMPLETING on node[1-2]")),
        (("COMPLETED", "None", 0, 0), State(phase="done", says="COMPLETED")),
        (("CANCELLED", "None", 0, 0), State(phase="cancelled", says="CANCELLED")),
        (("TIMEOUT", "TimeLimit", 0, 0), State(phase="failed", says="TIMEOUT (TimeLimit)")),
        (("FAILED", "NonZeroExitCode", 0, 9), State(phase="failed", says="FAILED (NonZeroExitCode)", code=9)),
    ],
)
def test_states(shown, expected):
    state, reason, restarts, code = shown
    found = parse(SHOWN.format(state=state, reason=reason, restarts=restarts, code=code))
    assert found == expected


def test_a_log_is_read_on_and_one_that_is_there_from_near_its_end(tmp_path):
    scheduler = slurm(tmp_path)
    log = tmp_path / ".hvg/logs/n.log"
    log.parent.mkdir(parents=True)
    seen: dict[str, int] = {}
    assert scheduler.stream("n", seen) == b""
    log.write_bytes(b"one\n")
    assert scheduler.stream("n", seen) == b"one\n"
    with log.open("ab") as file:
        file.write(b"two\n" * 10000)
    assert scheduler.stream("n", seen) == b"two\n" * 10000
    assert scheduler.stream("n", {}) == b"two\n" * 4095  # from the first whole line

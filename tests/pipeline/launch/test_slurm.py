"""What is handed to Slurm: its arguments, the script run with stand-ins, and states read."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.launch.clusters import SlurmCluster
from pipeline.launch.job import Job
from pipeline.launch.slurm import SCRIPT, UNKNOWN, Slurm, State

HERE = Path(__file__).parent
HOSTILE = "a; touch pwned $(touch pwned) `touch pwned` 'x\" %j"


def slurm(root: Path = Path("/projects/hvg"), **values) -> Slurm:
    cluster = SlurmCluster(launcher="slurm", **values)
    return Slurm(cluster=cluster, root=root, stage="train-level-2", inputs="0123456789abcdef" * 4)


def test_what_sbatch_is_given():
    scheduler = slurm(
        partition="a100",
        account="vision",
        gpus_per_node=4,
        cpus_per_task=32,
        time="12:00:00",
        sbatch=("--constraint=nvlink",),
        setup=("module load cuda",),
    )
    job = Job(module="stages.train", args=("--level", "2"), workers=4, nodes=2)
    assert re.fullmatch(r"hvg-train-level-2-[0-9a-f]{8}-0123456789ab", scheduler.name)
    assert scheduler.command(job) == [
        "sbatch",
        "--constraint=nvlink",
        "--parsable",
        "--dependency=singleton",
        "--ntasks-per-node=1",
        "--open-mode=append",
        "--export=ALL",
        f"--job-name={scheduler.name}",
        "--nodes=2",
        "--partition=a100",
        "--account=vision",
        "--time=12:00:00",
        "--cpus-per-task=32",
        "--gpus-per-node=4",
        "--requeue",
        "--signal=B:USR1@120",
        "--chdir=/projects/hvg",
        f"--output=/projects/hvg/.hvg/logs/{scheduler.name}.log",
        str(SCRIPT),
        sys.executable,
        "--nproc-per-node",
        "4",
        "-m",
        "stages.train",
        "--level",
        "2",
    ]
    given = scheduler.environment(job)
    ours = {name: value for name, value in given.items() if name.startswith("HVG_")}
    files = f"/projects/hvg/.hvg/jobs/{scheduler.name}"
    assert ours == {
        "HVG_FOLDER": "/projects/hvg",
        "HVG_FILES": files,
        "HVG_WORKERS": "4",
        "HVG_REQUEUE": "1",
        "HVG_ENDED": f"{files}.ended",
        "HVG_JOB": scheduler.name,
    }
    shown = scheduler.preview(job)
    assert shown.splitlines()[1] == "module load cuda" and shown.endswith(SCRIPT.read_text())
    once = slurm(requeue=False)
    assert "--no-requeue" in once.command(job) and once.environment(job)["HVG_REQUEUE"] == "0"


@pytest.mark.parametrize("option", ["dependency=singleton", "ntasks-per-node=1", "open-mode=append", "export=ALL"])
def test_what_a_job_needs_is_said_last_and_not_in_the_script(option):
    """Of a command line's options the last one counts, and before the environment's, which beats the script's."""
    other = f"--{option.partition('=')[0]}=other"
    command = slurm(sbatch=(other,)).command(Job(module="stages.train"))
    options = command[: command.index(str(SCRIPT))]
    assert options.index(f"--{option}") > options.index(other)
    assert "#SBATCH" not in SCRIPT.read_text()


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


def submitted(
    scheduler: Slurm, job: Job, env: dict[str, str], python: str = "python"
) -> subprocess.CompletedProcess[str]:
    """A job's script, run to its end as sbatch would run it, with a stand-in for the interpreter."""
    scheduler.files.parent.mkdir(parents=True, exist_ok=True)
    setup = Path(f"{scheduler.files}.setup")
    setup.write_text("".join(f"{line}\n" for line in scheduler.cluster.setup))
    command = scheduler.command(job)
    command = [
        "/bin/bash",
        *(python if one == sys.executable else one for one in command[command.index(str(SCRIPT)) :]),
    ]
    env = {**scheduler.environment(job), **env}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_no_value_reaches_a_shell(tmp_path):
    """The script runs with names in it that are commands: every one arrives as it is, and the exit code comes back."""
    root = tmp_path / HOSTILE
    env = stand_ins(tmp_path)
    scheduler = slurm(root, partition=HOSTILE, account=HOSTILE)
    job = Job(module="stages.train", args=("--level", HOSTILE), workers=2, nodes=2)
    done = submitted(scheduler, job, env | {"SLURM_CPUS_PER_TASK": "8"}, HOSTILE)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert sorted(file.name for file in root.iterdir()) == [".hvg", "python.args", "srun.args"]
    assert Path(f"{scheduler.files}.code").read_text() == "7\n"
    srun = (root / "srun.args").read_text().split("\0")
    assert "--cpus-per-task=8" in srun
    scratch = f"{scheduler.files}.torchrun"
    torchrun = ["-m", "pipeline.launch.torchrun", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.7"]
    torchrun += ["--master-port", "20035", "--tee", "3", "--log-dir", scratch, "--nproc-per-node", "2"]
    stage = ["-m", "stages.train", "--level", HOSTILE]
    assert (root / "python.args").read_text().split("\0")[:-1] == [*torchrun, *stage]
    command = scheduler.command(job)
    assert {f"--partition={HOSTILE}", f"--account={HOSTILE}", f"--chdir={root}"} <= set(command)
    assert f"--output={str(root).replace('%', '%%')}/.hvg/logs/{scheduler.name}.log" in command
    shown = shlex.split(scheduler.preview(job).splitlines()[0], comments=False)
    assert shown[-len(command) :] == command


def test_sbatch_gets_the_environment_and_the_script_does_not(tmp_path, monkeypatch):
    env = stand_ins(tmp_path)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", env["PATH"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:s3cret@host")
    scheduler = slurm(tmp_path)
    scheduler.submit(Job(module="stages.train"))
    given = (tmp_path / "env").read_text()
    job = f"HVG_JOB={scheduler.name}"
    for line in ("MLFLOW_TRACKING_URI=https://me:s3cret@host", job, "PYTHONUNBUFFERED=1"):
        assert f"\n{line}\n" in f"\n{given}"
    assert "s3cret" not in "".join(file.read_text() for file in (tmp_path / ".hvg/jobs").iterdir())
    assert "s3cret" not in scheduler.preview(Job(module="stages.train"))


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in beside the others."""
    file = folder / "bin" / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def ran(folder: Path, env: dict[str, str], **values) -> subprocess.CompletedProcess[str]:
    """A job's script, run to its end in a folder with stand-ins."""
    return submitted(slurm(folder, **values), Job(module="stages.train"), env)


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
    assert Path(f"{slurm(tmp_path).files}.code").read_text() == "7\n"


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
    assert Path(f"{slurm(tmp_path).files}.code").read_text() == f"{code}\n"


def answers(folder: Path, monkeypatch, name: str, body: str) -> None:
    """One of Slurm's commands answers so."""
    monkeypatch.setenv("PATH", stand_ins(folder)["PATH"])
    program(folder, name, body)


@pytest.mark.parametrize("said", ["Socket timed out on send/recv", "Unable to contact slurm controller"])
def test_a_slurm_out_of_reach_is_no_users_mistake(tmp_path, monkeypatch, said):
    answers(tmp_path, monkeypatch, "sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(OSError, match=said):
        slurm(tmp_path).submit(Job(module="stages.train"))
    assert slurm(tmp_path).log.read_bytes() == b""


@pytest.mark.parametrize("said", ["12", "12;gpus"])
def test_the_id_of_what_was_submitted(tmp_path, monkeypatch, said):
    answers(tmp_path, monkeypatch, "sbatch", f"echo '{said}'")
    assert slurm(tmp_path).submit(Job(module="stages.train")) == "12"


def test_a_job_gets_nothing_of_the_job_that_submits_it(tmp_path, monkeypatch):
    answers(tmp_path, monkeypatch, "sbatch", f"env > {tmp_path}/env")
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_CONF", "SLURM_JWT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    slurm(tmp_path).submit(Job(module="stages.train"))
    given = (tmp_path / "env").read_text().splitlines()
    assert sorted(line for line in given if "SLURM" in line or "SBATCH" in line) == ["SLURM_CONF=x", "SLURM_JWT=x"]
    assert "LC_ALL=C.UTF-8" in given


def test_every_job_is_seen_and_cancelled_whatever_the_users_views_are(tmp_path, monkeypatch):
    """Also in a hidden partition; and the account and partition that the user has chosen stay."""
    answers(tmp_path, monkeypatch, "squeue", f'env > {tmp_path}/env; echo "$@" > {tmp_path}/arguments')
    program(tmp_path, "scancel", f"env > {tmp_path}/env")
    for name in ("SQUEUE_PARTITION", "SQUEUE_STATES", "SCANCEL_INTERACTIVE", "SBATCH_ACCOUNT", "SBATCH_PARTITION"):
        monkeypatch.setenv(name, "x")
    scheduler = slurm(tmp_path)
    for ask, by_squeue in (
        (scheduler.state, True),
        (lambda: scheduler.cancel(now=True), False),
    ):
        (tmp_path / "env").unlink(missing_ok=True)
        ask()
        given = (tmp_path / "env").read_text().splitlines()
        found = sorted(line for line in given if line.startswith(("SQUEUE", "SCANCEL", "SBATCH")))
        assert found == ["SBATCH_ACCOUNT=x", "SBATCH_PARTITION=x"]
        if by_squeue:
            assert "--all" in (tmp_path / "arguments").read_text().split()
            (tmp_path / "arguments").unlink()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", ("", "UNKNOWN", "to Slurm")),
        ("12 X PENDING (Resources)", ("12", "PENDING", "(Resources)")),
        ("12 X RUNNING node[1-2]", ("12", "RUNNING", "node[1-2]")),
        ("12 X FAILED (NonZeroExitCode)\n13 a name RUNNING node1", ("12", "FAILED", "(NonZeroExitCode)")),
        ("9 X FAILED (NonZeroExitCode)\n12 X CANCELLED \n10 X COMPLETED node1", ("12", "CANCELLED", "")),
        ("9 X RUNNING node1\n12 X COMPLETED node2", ("9", "RUNNING", "node1")),  # submitted twice
    ],
)
def test_states(tmp_path, monkeypatch, said, expected):
    scheduler = slurm(tmp_path)
    answers(tmp_path, monkeypatch, "squeue", f"echo '{said.replace('X', scheduler.name)}' | grep .; exit 0")
    state = scheduler.state()
    assert (state.id, state.name, state.detail) == expected


def test_the_state_of_earlier_jobs_is_not_this_ones(tmp_path, monkeypatch):
    name = slurm(tmp_path).name
    answers(tmp_path, monkeypatch, "squeue", f"echo '9 {name} FAILED (NonZeroExitCode)'; echo '12 {name} COMPLETED n1'")
    assert slurm(tmp_path).state(frozenset({"12"})) == State("9", name, "FAILED", "(NonZeroExitCode)")
    assert slurm(tmp_path).state(frozenset({"9", "12"})) == UNKNOWN


def test_which_states_are_an_end():
    assert [State("1", "job", name).over for name in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")] == [False] * 4
    ends = ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "UNKNOWN")
    assert [State("1", "job", name).over for name in ends] == [True] * 5
    assert [State("1", "job", name).runs for name in ("PENDING", "CONFIGURING", "RUNNING")] == [False, False, True]


def test_what_slurm_says_against_it_is_one_line(tmp_path, monkeypatch):
    answers(tmp_path, monkeypatch, "scancel", "echo 'scancel: error: Unable\nto contact' >&2; exit 1")
    with pytest.raises(OSError, match=r"^scancel: error: Unable to contact$"):
        slurm(tmp_path).cancel(now=True)


def test_a_folder_that_slurm_opens_no_log_in(tmp_path, monkeypatch):
    answers(tmp_path, monkeypatch, "sbatch", f"touch {tmp_path}/submitted")
    with pytest.raises(UserError, match="a folder with a backslash"):
        slurm(tmp_path / "a\\b").submit(Job(module="stages.train"))
    assert not (tmp_path / "submitted").exists()


def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch: not on this machine"):
        slurm(tmp_path).submit(Job(module="stages.train"))

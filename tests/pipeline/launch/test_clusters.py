"""clusters.yaml and what `hvg run` makes of it, without any cluster: mistakes in one line, dry runs."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.stages import _inputs
from pipeline.errors import UserError
from pipeline.launch.clusters import SlurmCluster, load_cluster, read_clusters

ROOT = Path(__file__).parents[3]
EXAMPLE = """
gpu:
  launcher: slurm
  partition: a100
  nodes: 2
  gpus_per_node: 4
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "clusters.yaml"
    file.write_text(text)
    return file


def test_without_a_file_there_is_this_machine(tmp_path):
    assert load_cluster("local", tmp_path) is None
    with pytest.raises(UserError, match=r"--cluster gpu: there is no .*clusters.yaml"):
        load_cluster("gpu", tmp_path)


def test_a_cluster_by_name(tmp_path):
    written(tmp_path, EXAMPLE)
    found = load_cluster("gpu", tmp_path)
    assert found == SlurmCluster(launcher="slurm", partition="a100", nodes=2, gpus_per_node=4)
    with pytest.raises(UserError, match=r"--cluster cpu: .* has the clusters gpu"):
        load_cluster("cpu", tmp_path)


def test_an_experiments_copy_has_the_clusters_of_its_origin(tmp_path):
    written(tmp_path, EXAMPLE)
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    copy.mkdir(parents=True)
    assert load_cluster("gpu", copy) == load_cluster("gpu", tmp_path)


def test_the_example_is_read():
    (gpu,) = read_clusters(ROOT / "clusters.example.yaml").values()
    assert gpu.time == "12:00:00"  # YAML 1.2: no number of seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- gpu", "yaml: Input should be an object"),
        ("gpu: [", "not valid YAML"),
        ("gpu: {nodes: 2}", "gpu.launcher: missing"),
        ("gpu: {launcher: slurm, node: 2}", "gpu.node: no such parameter"),
        ("gpu: {launcher: slurm, nodes: 0}", "gpu.nodes: .* not 0"),
        ("gpu: {launcher: slurm, nodes: two}", 'gpu.nodes: .* not "two"'),
        ('gpu: {launcher: slurm, partition: "a\\nb"}', "gpu.partition: "),
        ("gpu: {launcher: slurm, time: 12 h}", "gpu.time: "),
        ("gpu: {launcher: slurm, sbatch: [-p x]}", "gpu.sbatch.0: "),
        ("gpu: {launcher: slurm, sbatch: [--clusters=b]}", "gpu.sbatch.0: .*a stage is one job"),
        ("gpu: {launcher: slurm, sbatch: [--array=1-2]}", "gpu.sbatch.0: .*a stage is one job"),
        ("gpu: {launcher: slurm, sbatch: [--test-only]}", "gpu.sbatch.0: .*a stage is one job"),
        ("gpu: {launcher: slurm, sbatch: ['--wrap=rm x']}", "gpu.sbatch.0: .*a stage is one job"),
        ("gpu: {launcher: slurm, sbatch: [--wait]}", "gpu.sbatch.0: .*a stage is one job"),
        ("gpu: {launcher: slurm, poll: .inf}", "gpu"),
        ("gpu: &a {launcher: slurm, setup: *a}", "too deep within each other"),
        ("local: {launcher: slurm}", "local: is this machine"),
        ("pods: {launcher: kubernetes}", "pods.launcher: .*'slurm', not \"kubernetes\""),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, message):
    file = written(tmp_path, text)
    with pytest.raises(UserError, match=message) as raised:
        read_clusters(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture
def project(tmp_path):
    shutil.copy(ROOT / "recipes" / "shapes.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    for name in ("models", "pipeline", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    written(tmp_path, EXAMPLE)
    return tmp_path


def hvg_run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--level", "1", "--nodes", "2"], "--nodes 2: this is one machine"),
        (["train", "--level", "1", "--workers", "7"], "levels.1.training.batch: 16 clips cannot be shared equally"),
        (["train", "--level", "1", "--cluster", "gpu", "--nodes", "3"], "by 12 workers (3 x 4)"),
        (["report", "--cluster", "gpu", "--nodes", "2"], "--nodes: report runs in one process"),
        (["report", "--cluster", "none"], "--cluster none: "),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_submitted(project, arguments, message):
    done = hvg_run(project, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_dry_run_prints_what_would_run_and_does_nothing(project):
    here = hvg_run(project, "train", "--level", "1", "--workers", "2", "--dry-run")
    assert here.stdout.endswith("--rdzv-conf store_type=file --nproc-per-node 2 -m stages.train --level 1\n")
    script = hvg_run(project, "train", "--level", "1", "--cluster", "gpu", "--dry-run")
    first, shebang, *_ = script.stdout.splitlines()
    assert shebang == "#!/bin/bash"
    assert re.search(r" sbatch .*--job-name=hvg-train-level-1-[0-9a-f]{8}-[0-9a-f]{12} --nodes=2 ", first)
    assert "--partition=a100" in first and "--gpus-per-node=4" in first
    assert "--nproc-per-node 4 -m stages.train --level 1" in script.stdout
    pool = hvg_run(project, "decode", "--cluster", "gpu", "--workers", "8", "--dry-run")
    assert "--nproc-per-node 1 -m stages.decode --workers 8" in pool.stdout and "--nodes=2" in pool.stdout
    alone = hvg_run(project, "report", "--cluster", "gpu", "--dry-run")
    assert "--nodes=1 " in alone.stdout and "-m stages.report" in alone.stdout
    for done in (here, script, pool, alone):
        assert (done.returncode, done.stderr) == (0, "")
    assert not (project / ".hvg").exists()


def changed(file: Path) -> None:
    """Made anew: other bytes, a later time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(file.read_bytes() + b"x" if file.exists() else b"x")


@pytest.mark.parametrize(
    ("stage", "level", "read", "others"),
    [
        ("decode", None, ["data/shapes/listing.csv"], ["data/pyramid/videos.parquet"]),
        ("train", 1, ["data/pyramid/videos.parquet"], ["artifacts/level-1/generator.safetensors"]),
        ("train", 2, ["data/conditions/level-1/videos.parquet"], ["data/samples/level-1/videos/videos.parquet"]),
        ("generate", 2, ["artifacts/level-2/generator.safetensors"], ["artifacts/level-1/generator.safetensors"]),
        (
            "evaluate",
            None,
            [f"data/samples/level-{n}/videos/videos.parquet" for n in (1, 2)],
            ["data/shapes/listing.csv"],
        ),
        ("report", None, [f"artifacts/level-{n}/generator.safetensors" for n in (1, 2)], ["data/shapes/listing.csv"]),
    ],
)
def test_a_job_is_another_one_where_what_it_reads_is_new(project, monkeypatch, stage, level, read, others):
    monkeypatch.chdir(project)
    seen = [_inputs(stage, level, None)]
    for name in [*read, *read]:  # there at all, then anew
        changed(project / name)
        seen.append(_inputs(stage, level, None))
    assert len(set(seen)) == len(seen)
    for name in others:
        changed(project / name)
    assert _inputs(stage, level, None) == seen[-1]


def test_only_a_job_of_this_machine_is_told_of_a_killed_dvc():
    """What the kernel would send to the process: TERM ends a job in order, KILL leaves a cluster's to itself."""
    asked = "v = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(v)); print(v.value)"
    for arguments, number in (("", signal.SIGTERM), ("number=signal.SIGKILL", signal.SIGKILL)):
        program = (
            f"import ctypes, signal; from pipeline.system.tether import die_with_parent; die_with_parent({arguments})"
        )
        done = subprocess.run([sys.executable, "-c", f"{program}; {asked}"], cwd=ROOT, capture_output=True, check=True)
        assert int(done.stdout) == number


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("train-level@2", ["train"], "-m stages.train --level 2\n"),
        ("dvc.yaml:generate-level@1", ["generate"], "-m stages.generate --level 1\n"),
        ("make-shapes@shapes", ["make-shapes"], "-m stages.make_shapes --key shapes"),
        ("train-level@2", ["train", "--level", "1"], "-m stages.train --level 1\n"),
        ("another", ["train"], "--level: train needs one"),
        ("train-level@$(id)", ["train"], "levels: '$(id)' is no level"),
    ],
)
def test_dvc_says_which_level_or_key(project, monkeypatch, stage, arguments, message):
    monkeypatch.setenv("DVC_STAGE", stage)
    done = hvg_run(project, *arguments, "--dry-run")
    assert message in done.stdout + done.stderr

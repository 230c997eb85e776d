"""`hvg run` on a real Slurm of two nodes: what comes out, and what becomes of a job that is disturbed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline.data.decode import decode
from pipeline.launch.server import prefect_server
from pipeline.paths import Paths
from pipeline.runs.store import Store
from tests.pipeline.data.test_decode import params as decode_params
from tests.pipeline.data.test_decode import tree
from tests.pipeline.data.test_decode_restart import begin
from tests.pipeline.launch.two_nodes import TwoNodes, missing, two_nodes
from tests.stages.test_training_is_stopped import project

ROOT = Path(__file__).parents[3]
HOSTILE = "a; touch pwned $(touch pwned) `touch pwned` %j 'x"
SECRET = "s3cret-of-the-tracking-server"  # noqa: S105 - none
KEPT_OUT = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"}

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()) and "CI" not in os.environ, reason=f"not installed: {', '.join(missing())}"),
]


class Hvg:
    """`hvg run` as a process in a project, with the cluster `two`; what it prints, in a file."""

    def __init__(self, slurm: TwoNodes, api: str, root: Path, *arguments: str, cluster: str = "two") -> None:
        self.slurm, self.root, self.log = slurm, root, root / f"hvg-{time.monotonic_ns()}.log"
        environment = {name: value for name, value in slurm.env.items() if name not in KEPT_OUT}
        environment |= {"OMP_NUM_THREADS": "1", "PREFECT_API_URL": api, "HVG_TEST_SECRET": SECRET}
        program = "from pipeline.cli import main; from pipeline.launch import flow; flow.RETRY_SECONDS = 0.5; main()"
        program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {program}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "run", *arguments, "--cluster", cluster],
                cwd=root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def said(self) -> str:
        return self.log.read_text()

    def until(self, text: str, times: int = 1, seconds: float = 240) -> None:
        """Until it has said something so many times."""
        self.wait_for(lambda: len(re.findall(text, self.said())) >= times, f"{text!r}, {times} times", seconds)

    def wait_for(self, found: Callable[[], object], what: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not found():
            assert self.process.poll() is None, f"ended before {what}:\n{self.said()}"
            assert time.monotonic() < end, f"no {what}:\n{self.said()}\n{self.slurm.ask('scontrol', 'show', 'job')}"
            time.sleep(0.1)

    def end(self, seconds: float = 240) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
            yield url


@pytest.fixture
def start(slurm, api, tmp_path) -> Iterator[Callable[..., Hvg]]:
    """Start `hvg run` with some arguments, in a project whose clusters.yaml is written for it."""
    started: list[Hvg] = []

    def begin(root: Path, *arguments: str, cluster: str = "two") -> Hvg:
        if not (root / "dvc.yaml").exists():
            (root / "dvc.yaml").write_text("stages: {}\n")
            for name in ("models", "pipeline", "stages"):
                (root / name).symlink_to(ROOT / name)
            base = {"launcher": "slurm", "nodes": 2, "poll": 0.5, "time": "30", "cpus_per_task": 1}
            hostile = {"sbatch": ["--comment=$(touch pwned); touch pwned"], "setup": ["export OF_THE_SITE=1"]}
            clusters = {"two": {**base, **hostile}, "late": {**base, "sbatch": ["--begin=now+1hour"]}}
            with (root / "clusters.yaml").open("w") as file:
                YAML().dump(clusters, file)
        started.append(Hvg(slurm, api, root, *arguments, cluster=cluster))
        return started[-1]

    yield begin
    for hvg in started:
        hvg.process.kill()
        hvg.process.wait()
    for job in slurm.jobs():
        slurm.ask("scancel", job)


def nothing_left(slurm: TwoNodes) -> bool:
    end = time.monotonic() + 10
    while left := [process.cmdline() for process in slurm.processes()] + slurm.jobs():
        assert time.monotonic() < end, left
        time.sleep(0.1)
    return True


def statuses(paths: Paths) -> set[str]:
    return {found.status for found in Store(paths).runs()}


def test_two_nodes_train_what_one_process_trains(slurm, start, tmp_path):
    """In a folder, and on a cluster, whose names are commands to a shell."""
    alone, shared = project(tmp_path / "alone"), Paths(tmp_path / HOSTILE)
    few(alone, 6)
    shutil.copytree(alone.root, shared.root)
    environment = {name: value for name, value in os.environ.items() if name not in KEPT_OUT}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.train", "--level", "1"]
    by_itself = subprocess.Popen(command, cwd=alone.root, env=environment, stderr=subprocess.DEVNULL)
    hvg = start(shared.root, "train", "--level", "1")
    assert hvg.end() == 0, hvg.said()
    assert by_itself.wait(60) == 0
    expected, found = (load_file(paths.artifact(1) / "generator.safetensors") for paths in (alone, shared))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
    for label in ("node1 rank 0", "node2 rank 1"):
        assert re.search(rf"^{label}: \d\d:\d\d:\d\d level 1: training from the start$", hvg.said(), re.MULTILINE)
    assert "torch.distributed" not in hvg.said()
    assert statuses(shared) == {"FINISHED"}
    assert nothing_left(slurm)
    assert not list(tmp_path.rglob("pwned"))
    (setup,) = shared.state.glob("jobs/*.setup")
    assert SECRET not in setup.read_text()
    kinds = {file.name.removeprefix(setup.stem) for file in shared.state.glob("jobs/*")}
    assert kinds == {".code", ".setup"}


def test_two_nodes_decode_the_bytes_of_one(slurm, start, tmp_path):
    whole, again = begin(tmp_path / "whole", 9), Paths(tmp_path / "again")
    shutil.copytree(whole.root, again.root)
    decode(decode_params(max_failed=0.5), whole, 1)
    hvg = start(again.root, "decode")
    assert hvg.end() == 0, hvg.said()
    assert tree(again.pyramid) == tree(whole.pyramid)
    assert {"node1 rank 0", "node2 rank 1"} <= set(re.findall(r"^node\d rank \d", hvg.said(), re.MULTILINE))


def test_a_mistake_is_one_line_and_a_job_that_does_not_begin_says_why(slurm, start, tmp_path):
    paths = project(tmp_path / "project")
    hvg = start(paths.root, "train", "--level", "2")  # there are no conditions of level 1
    late = start(paths.root, "train", "--level", "1", cluster="late")
    late.until(r"PENDING \(BeginTime\)")
    assert late.interrupt() == 130
    assert late.said().count("BeginTime") == 1
    assert hvg.end() == 2, hvg.said()
    assert re.fullmatch(r"error: .*data/conditions/level-1.*", hvg.said().splitlines()[-1])
    assert "Traceback" not in hvg.said() + late.said()
    assert nothing_left(slurm)


def test_a_job_goes_on_whatever_becomes_of_it(slurm, start, tmp_path):
    """One long training, disturbed again and again, each time after some checkpoints."""
    paths = project(tmp_path / "project")
    few(paths, 10**6)
    root, going_on = paths.root, r"node1 rank 0: .* going on from iteration (\d+)"

    def newest() -> int:
        return max((int(file.stem[11:]) for file in root.glob(".hvg/work/*/checkpoint-*.pt")), default=0)

    def progress(hvg: Hvg) -> None:
        before = newest()
        hvg.wait_for(lambda: newest() >= before + 6, f"a checkpoint after {before}")

    hvg = start(root, "train", "--level", "1", "--retries", "1")
    progress(hvg)
    (second,) = (p for p in slurm.processes() if p.environ().get("RANK") == "1" and "stages.train" in p.cmdline())
    second.kill()
    hvg.until("try 2 of 2")
    hvg.until(going_on, 1)

    progress(hvg)
    (job,) = slurm.jobs()
    slurm.ask("scontrol", "update", f"jobid={job}", f"timelimit={minutes_run(slurm, job) + 2}")
    hvg.until("the time limit is near")
    hvg.until(r"stopped: level \d+: iteration \d+ is saved")
    hvg.until(rf"job {job}: PENDING")
    slurm.ask("scontrol", "update", f"jobid={job}", "timelimit=30")
    hvg.until(going_on, 2)
    assert "SignalException" not in hvg.said()

    assert slurm.jobs() == [job]
    iterations = [int(number) for number in re.findall(going_on, hvg.said())]
    assert iterations == sorted(set(iterations)), "each time from a later checkpoint"
    progress(hvg)

    hvg.process.kill()  # the one that waits
    hvg.process.wait()
    whole = paths.params.read_text()
    few(paths, 10**6 + 1)
    other = start(root, "train", "--level", "1")
    assert other.end() == 2
    assert f"job {job} still runs it with other parameters, code or inputs" in other.said()
    assert f"`scancel {job}`" in other.said()
    paths.params.write_text(whole)
    here = start(root, "train", "--level", "1", cluster="local")
    here.until("another run is at the same work")
    assert here.interrupt() == 130

    again = start(root, "train", "--level", "1")
    again.until(f"job {job} runs it already")
    progress(again)
    assert slurm.jobs() == [job]
    assert again.interrupt() == 130
    assert re.search(r"stopped: level \d+: iteration \d+ is saved", again.said())
    assert "Traceback" not in again.said()
    assert nothing_left(slurm)
    assert "RUNNING" not in statuses(paths)

    last = start(root, "train", "--level", "1")
    last.until(going_on)
    progress(last)
    waited = last.said().count(": PENDING")
    slurm.kill_node(2)
    last.until(": PENDING", waited + 1)
    slurm.start_node(2)
    last.until(going_on, 2)
    # Slurm may tell the node, now that it is back, to end the run that failed, and mean this one: then it is a new job.
    progress(last)
    slurm.ask("scancel", *slurm.jobs())
    assert last.end() == 143, last.said()
    assert re.search(r"error: train level 1: job \d+ was cancelled", last.said())
    assert nothing_left(slurm)
    assert "RUNNING" not in statuses(paths)


def minutes_run(slurm: TwoNodes, job: str) -> int:
    """For how long a job has run, in whole minutes."""
    found = re.search(r"RunTime=(\d+):(\d+):", slurm.ask("scontrol", "show", "job", job))
    assert found is not None
    return 60 * int(found[1]) + int(found[2])


def few(paths: Paths, iterations: int) -> None:
    """Set the iterations of level 1."""
    raw = YAML(typ="safe").load(paths.params)
    raw["levels"]["1"]["training"]["iterations"] = iterations
    with paths.params.open("w") as file:
        YAML().dump(raw, file)

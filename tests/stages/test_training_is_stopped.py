"""Real stage processes that are killed and terminated, anywhere, and end with the bytes of an undisturbed run."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.commands import stages
from pipeline.paths import Paths
from pipeline.runs.store import Store
from tests.stages.fake_project import make_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ITERATIONS = 60


def project(root: Path, **recalibration: int) -> Paths:
    """Two tiny levels on a pyramid that is there; nothing is trained."""
    paths = make_project(root, classes=("a", "b"))
    for made in ("conditions", "samples"):
        shutil.rmtree(root / "data" / made)
    shutil.rmtree(root / "artifacts")
    raw = YAML(typ="safe").load(paths.params)
    for number, level in raw["levels"].items():
        level["generator"]["channels"] = level["discriminators"]["channels"] = 2
        level["training"] |= {"batch": 4, "iterations": ITERATIONS, "checkpoint_every": 3, "samples_every": 25}
        level["training"]["average"] = 0.9
        level["generation"] |= {"batch": 4, "recalibration": recalibration.get(number, 5)}
    raw["conditions"]["1"] |= {"train": 280, "measure": 20}
    raw["samples"] |= {"videos": 300, "figures": 4, "windows": 4}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    return paths


def stage(root: Path, name: str, level: int) -> subprocess.Popen[str]:
    """The stage's own process, its log in a file beside the project."""
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with (root / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"stages.{name}", "--level", str(level)],
            cwd=root,
            env={**kept, "OMP_NUM_THREADS": "1"},  # the order of sums, and so the bytes, depend on it
            stderr=log,
            text=True,
        )


def finish(root: Path, name: str, level: int) -> str:
    """Run a stage to its end: its log."""
    with stage(root, name, level) as process:
        code = process.wait()
    log = (root / "log").read_text()
    assert code == 0, log
    return log


def digests(paths: Paths) -> list[str]:
    files = [paths.artifact(level) / name for level in (1, 2) for name in ("generator.safetensors", "history.csv")]
    stores = [paths.root / "data" / name for name in ("conditions", "samples")]
    files += [file for store in stores for file in sorted(store.rglob("*")) if file.is_file()]
    return [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]


def until(process: subprocess.Popen[str], found: Callable[[], object]) -> None:
    while not found():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.001)


def logged(root: Path, text: str) -> Callable[[], bool]:
    return lambda: text in (root / "log").read_text()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def kill_while_it_writes(process: subprocess.Popen[str], root: Path) -> None:
    """Kill a stage that has begun a checkpoint's file and not finished it."""
    while True:
        until(process, lambda: list(root.glob(".hvg/work/train-*/.checkpoint-*")))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.01)
        if list(root.glob(".hvg/work/train-*/.checkpoint-*")):
            kill(process)
            return
        process.send_signal(signal.SIGCONT)  # it was renamed meanwhile: the next one


def test_twelve_kills_change_no_byte(tmp_path):
    steps = [("train", 1), ("generate", 1), ("train", 2), ("sample", 1), ("sample", 2)]
    undisturbed, disturbed = project(tmp_path / "whole"), project(tmp_path / "killed")
    for step in steps:
        finish(undisturbed.root, *step)
    moments, kills, root = random.Random(0), 0, disturbed.root  # noqa: S311
    for name, level in steps:
        if name != "train":
            with stage(root, name, level) as process:
                until(process, lambda: list(root.glob(".hvg/work/generate-*/samples/**/c/*")))
                time.sleep(moments.uniform(0, 0.2))
                kill(process)
                kills += 1
        else:
            for _ in range(3):  # also before the first iteration
                with stage(root, name, level) as process:
                    until(process, logged(root, f"level {level}: "))
                    time.sleep(moments.uniform(0, 1.5))
                    assert process.poll() is None, "it ended too early"
                    kill(process)
                    kills += 1
            with stage(root, name, level) as process:
                kill_while_it_writes(process, root)
                kills += 1
                assert list(root.glob(".hvg/work/train-*/.checkpoint-*"))
        if (name, level) == ("train", 2):
            with stage(root, name, level) as process:  # after the last iteration: publishing
                until(process, lambda: list(root.glob(f".hvg/work/train-level-2-*/checkpoint-{ITERATIONS:08d}.pt")))
                time.sleep(moments.uniform(0, 0.05))
                kill(process)
                kills += 1
        log = finish(root, name, level)
        assert name != "train" or "going on from iteration" in log
        assert not list(root.glob(".hvg/work/train-*/.checkpoint-*"))
    assert kills == 12
    assert digests(disturbed) == digests(undisturbed)


def test_term_ends_a_run_with_a_checkpoint_and_one_that_recalibrates_at_once(tmp_path):
    paths = project(tmp_path, **{"1": 10**6})
    with stage(tmp_path, "train", 1) as process:
        until(process, logged(tmp_path, "level 1: training from the start"))
        time.sleep(0.5)
        process.terminate()
        assert process.wait() == 143
    log = (tmp_path / "log").read_text()
    assert re.search(r"stopped: level 1: iteration \d+ is saved, the same command goes on from it\n", log), log
    assert "lost" not in log and "Traceback" not in log
    (found,) = Store(paths).runs("train level 1")
    assert found.status == "KILLED"
    finish(tmp_path, "train", 1)
    for name in ("generate", "sample"):
        with stage(tmp_path, name, 1) as process:
            until(process, logged(tmp_path, "recalibrate level 1"))
            process.terminate()
            assert process.wait() in (143, -signal.SIGTERM)
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_other_parameters_are_trained_from_the_start_and_the_log_says_why(tmp_path):
    paths = project(tmp_path)
    finish(tmp_path, "train", 1)
    raw = YAML(typ="safe").load(paths.params)
    raw["levels"]["1"]["training"] |= {"lr_generator": 0.0004, "checkpoint_every": 50}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    log = finish(tmp_path, "train", 1)
    assert (
        "trained to iteration 60, is not gone on from: other levels.1.training.lr_generator (0.0005, now 0.0004)\n"
        in log
    )
    assert "level 1: training from the start" in log


def test_a_level_begins_from_what_was_there_and_tells_so(tmp_path, monkeypatch):
    paths = project(tmp_path)
    finish(tmp_path, "train", 1)
    monkeypatch.chdir(tmp_path)
    stages._begin_from(Path("artifacts/level-1"), "train", 1, False)
    raw = YAML(typ="safe").load(paths.params)
    raw["levels"]["1"]["training"] |= {"lr_generator": 0.0004, "batch": 2, "iterations": 6}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    shutil.rmtree(paths.artifact(1))  # as DVC does
    assert "level 1: begins from .hvg/starts/" in finish(tmp_path, "train", 1)
    sha256 = raw["levels"]["1"]["training"]["start"]["sha256"]
    config = json.loads((paths.artifact(1) / "config.json").read_text())
    assert config["start"] == {"sha256": sha256, "iterations": ITERATIONS, "start": None}
    first = hashlib.sha256((paths.artifact(1) / "generator.safetensors").read_bytes()).digest()
    shutil.rmtree(paths.artifact(1))
    shutil.rmtree(paths.state / "starts")
    assert "going on from iteration 6" in finish(tmp_path, "train", 1)
    assert hashlib.sha256((paths.artifact(1) / "generator.safetensors").read_bytes()).digest() == first
    assert {run.params.get("start.sha256") for run in Store(paths).runs("train level 1")} == {None, sha256}


def test_a_run_is_stopped_early_and_its_best_generator_published(tmp_path):
    paths = project(tmp_path)
    raw = YAML(typ="safe").load(paths.params)
    stopping = {"every": 1, "patience": 1, "videos": 2, "i3d": None, "splits": None}
    raw["levels"]["1"]["training"] |= {"log_every": 1, "measure": stopping}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    log = finish(tmp_path, "train", 1)
    assert "is the best, at " in log
    assert "random_i3d_frechet_windows" in (paths.artifact(1) / "history.csv").read_text()
    (found,) = Store(paths).runs("train level 1")
    assert {"random_i3d_frechet_windows", "hinge_spatial", "frames_per_second"} <= found.metrics.keys()

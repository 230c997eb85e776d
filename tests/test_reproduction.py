"""Whole reproductions in checkouts of their own, smaller than the recipes: networks, iterations and numbers of videos.

The default recipe runs as a user runs it, on its own shapes. The mini recipes run their stages in this process, and
only hold what real clips are needed for.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from ruamel.yaml import YAML

from pipeline.media.video import write_mp4
from pipeline.metrics.weights import INSTALLED_SHA256
from stages import decode, evaluate, generate, report, sample, train

ROOT = Path(__file__).parents[1]
CLIPS = ROOT.parent / "shared" / "clips"
BIN = Path(sys.executable).parent
ITERATIONS, VIDEOS = 12, 12
SAMPLES = {"videos": 8, "figures": 4, "windows": 6}
SHAPES = ("shapes.shapes.train=24", "shapes.shapes.val=8", "shapes.shapes.frames=36")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
on_real_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the real clips are not here: {CLIPS}")


class Checkout:
    """The project's files in a folder of their own, and its commands there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = [
            "dvc.yaml",
            ".dvc",
            ".dvcignore",
            ".gitignore",
            "prefect.toml",
            "recipes",
            "models",
            "pipeline",
            "stages",
        ]
        for name in names:
            source = ROOT / name
            if source.is_dir():
                generated = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
                shutil.copytree(source, folder / name, ignore=generated)
            else:
                shutil.copy(source, folder / name)
        unwanted = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME"}
        self.environment = {k: v for k, v in os.environ.items() if k not in unwanted}
        self.environment["OMP_NUM_THREADS"] = "2"  # the order of sums, and so the bytes, depend on it
        self.environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
        self.run("git", "init", "-q")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def hvg(self, *arguments: str) -> str:
        return self.run(str(BIN / "hvg"), *arguments)

    def path(self, name: str) -> Path:
        return self.folder / name

    def recipe(self, name: str, *settings: str) -> int:
        """Make a recipe the active one, with less work in every level. Returns how many levels it has."""
        levels = YAML(typ="safe").load(ROOT / "recipes" / f"{name}.yaml")["levels"]
        small = ["evaluation.videos=6", "evaluation.psd_sets=2", *settings]
        small += [f"samples.{name}={count}" for name, count in SAMPLES.items()]
        for level in levels:
            training = {"batch": 4, "iterations": ITERATIONS, "checkpoint_every": 4, "log_every": 4}
            generation = {"batch": 4, "recalibration": 3}
            sizes = {"generator.channels": 4, "discriminators.channels": 4}
            sizes |= {f"training.{key}": value for key, value in training.items()}
            sizes |= {f"generation.{key}": value for key, value in generation.items()}
            small += [f"levels.{level}.{key}={value}" for key, value in sizes.items()]
            if int(level) < len(levels):
                small += [f"conditions.{level}.train={VIDEOS}", f"conditions.{level}.measure=2"]
        self.hvg("recipe", name, *(word for setting in small for word in ("--set", setting)))
        return len(levels)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The default recipe, by `hvg repro`."""
    checkout = Checkout(tmp_path_factory.mktemp("shapes"))
    checkout.recipe("shapes", *SHAPES, "levels.1.training.samples_every=6")
    checkout.hvg("repro")
    return checkout


def in_this_process(checkout: Checkout, levels: int) -> None:
    """Every stage of the graph, one after the other, without DVC and Prefect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout.folder)
        for name in ("MLFLOW_TRACKING_URI", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        decode.main(["--workers", "2"])
        for level in range(1, levels + 1):
            train.main(["--level", str(level)])
            if level < levels:
                generate.main(["--level", str(level)])
            sample.main(["--level", str(level)])
        evaluate.main([])
        report.main([])


def of_real_clips(folder: Path, name: str, root: Path) -> Checkout:
    checkout = Checkout(folder)
    in_this_process(checkout, checkout.recipe(name, f"data.root={root}"))
    return checkout


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    return of_real_clips(tmp_path_factory.mktemp("kinetics"), "kinetics-mini", CLIPS / "kinetics")


@pytest.fixture(scope="module")
def bdd(tmp_path_factory):
    return of_real_clips(tmp_path_factory.mktemp("bdd"), "bdd-mini", CLIPS / "bdd100k")


def the_page_is_whole(checkout, levels):
    page = checkout.path("reports/index.html").read_text()
    sources = set(re.findall(r'(?:src|poster|href)="([^"#:]+)"', page))
    assert sources
    assert [source for source in sources if not checkout.path(f"reports/{source}").is_file()] == []
    for level in range(1, levels + 1):
        assert f"Level {level}" in page
    metrics = json.loads(checkout.path("reports/metrics.json").read_text())
    protocol = json.loads(checkout.path("reports/protocol.json").read_text())["protocol"]
    assert {"fvd", "fid_k400"} < set(metrics["metrics"]) and protocol["logits_sha256"] == INSTALLED_SHA256
    assert not any("random_i3d" in name or name == "fid" for name in metrics["metrics"])
    assert ("inception_score" in metrics["metrics"]) == (protocol["splits"] is not None)
    assert all(np.isfinite(value) for value in metrics["metrics"].values())


def the_views_are_identical(checkout, levels):
    """x^l = f_s(f_t(x^{l+1})), exactly, by plain zarr-python and torch."""
    group = zarr.open_group(checkout.path("data/pyramid"), mode="r")
    for level in range(1, levels):
        above, below = np.asarray(group[f"level-{level + 1}"]), np.asarray(group[f"level-{level}"])
        for high, low in zip(above, below, strict=True):
            frames = torch.from_numpy(high[::2]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            small = torch.nn.functional.interpolate(frames, size=low.shape[1:3], mode="bilinear", antialias=True)
            assert np.array_equal(small.permute(0, 2, 3, 1).numpy(), low)


def test_the_default_recipe_ends_with_a_page(shapes):
    the_page_is_whole(shapes, 2)
    assert len(pd.read_parquet(shapes.path("data/pyramid/videos.parquet"))) == 32


def test_the_views_of_the_default_recipe_are_identical(shapes):
    the_views_are_identical(shapes, 2)


@on_real_clips
def test_kinetics_mini_ends_with_a_page(kinetics):
    the_page_is_whole(kinetics, 2)


@on_real_clips
def test_kinetics_mini_loses_nothing_but_the_missing_clips(kinetics):
    videos = pd.read_parquet(kinetics.path("data/pyramid/videos.parquet"))
    files = [f for split in ("train", "val") for f in (CLIPS / "kinetics" / split).rglob("*") if f.is_file()]
    assert len(videos) == len(files) == 27
    assert (videos["n_frames"].to_numpy() > 0).all()
    with kinetics.path("data/pyramid/missing.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {"-missing0_A_000010_000020", "gone_video__000000_000010"}
    assert kinetics.path("data/pyramid/failed.csv").read_text().count("\n") == 1  # its head alone


@on_real_clips
def test_kinetics_mini_views_are_identical(kinetics):
    the_views_are_identical(kinetics, 2)


def test_samples_have_the_schema_of_a_view(shapes):
    sizes = {1: (8, 16, 16, 3), 2: (16, 32, 32, 3)}
    stores = {
        f"samples/level-{level}/{name}": (level, SAMPLES[name], *sizes[level])
        for name in ("videos", "figures")
        for level in (1, 2)
    }
    stores |= {
        "samples/level-2/windows": (2, SAMPLES["windows"], 8, 32, 32, 3),
        "conditions/level-1": (1, VIDEOS + 2, *sizes[1]),
    }
    for store, (level, *shape) in stores.items():
        group = zarr.open_group(shapes.path(f"data/{store}"), mode="r")
        assert np.asarray(group[f"level-{level}"]).shape == tuple(shape)
        table = pd.read_parquet(shapes.path(f"data/{store}/videos.parquet"))
        assert table["label"].tolist() == np.asarray(group["labels"]).tolist()
        classes = list(cast("list[str]", group.attrs["classes"]))
        assert [classes[label] for label in table["label"]] == table["class"].tolist()


def test_one_parent_run_and_a_child_a_level(shapes):
    runs = json.loads(shapes.hvg("runs", "--json"))
    parents = [run for run in runs if run["parent"] is None]
    assert len(parents) == 1
    assert sorted(run["name"] for run in runs if run["parent"] == parents[0]["id"]) == [
        "evaluate",
        "train level 1",
        "train level 2",
    ]
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert "fvd" in shapes.hvg("runs")


EDITS = {  # none of which changes a result
    "models/layers.py": ("class Linear(", "# a comment\nclass Linear("),
    "pipeline/data/decode.py": ("log = ", "# a comment\nlog = "),
    "pipeline/metrics/psd.py": ("def frame_spectra", "_UNUSED = 1\n\n\ndef frame_spectra"),  # training does not use it
}


def test_edits_that_change_no_result_train_decode_and_generate_nothing(shapes):
    for name, (old, new) in EDITS.items():
        text = shapes.path(name).read_text()
        assert old in text
        shapes.path(name).write_text(text.replace(old, new, 1))
    stores = ["data/pyramid", "data/conditions", "data/samples"]
    frames = [file for store in stores for file in shapes.path(store).rglob("c/**/*") if file.is_file()]
    before = {file: file.stat().st_mtime_ns for file in frames}
    published = {file: sha256(file) for file in shapes.path("artifacts").rglob("*") if file.is_file()}
    assert len(before) >= 4 and len(published) >= 8
    log = shapes.hvg("repro")
    assert set(re.findall(r"Running stage '(.*)'", log)) == {
        "decode",
        *(f"{stage}-level@{level}" for stage in ("train", "sample") for level in (1, 2)),
        "generate-level@1",
        "evaluate",
        "report",
    }
    assert log.count(f"going on from iteration {ITERATIONS}") == 2
    assert "training from the start" not in log
    assert {file: file.stat().st_mtime_ns for file in frames} == before
    assert {file: sha256(file) for file in published} == published


def test_nothing_to_do_is_said_and_level_2_alone_runs_again(shapes):
    assert "up to date" in shapes.run(str(BIN / "dvc"), "repro")
    shapes.hvg("recipe", "--set", "levels.2.training.lr_generator=0.0004")
    status = shapes.run(str(BIN / "dvc"), "status")
    assert "train-level@2" in status
    assert "train-level@1" not in status
    assert "decode" not in status
    shapes.hvg("recipe", "--set", "levels.2.training.lr_generator=0.0005")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_killed_training_resumes_to_the_same_bytes(shapes):
    generator = shapes.path("artifacts/level-1/generator.safetensors")
    undisturbed = sha256(generator)
    shutil.rmtree(generator.parent)
    for work in shapes.folder.glob(".hvg/work/train-level-1-*"):
        shutil.rmtree(work)
    command = [sys.executable, "-m", "stages.train", "--level", "1"]
    with subprocess.Popen(
        command, cwd=shapes.folder, env=shapes.environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while not list(shapes.folder.glob(".hvg/work/train-level-1-*/checkpoint-*.pt")):
            assert process.poll() is None, "training ended before it was killed"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not generator.exists()
    log = shapes.run(*command)
    resumed = re.search(r"going on from iteration (\d+)", log)
    assert resumed
    assert 0 < int(resumed[1]) < ITERATIONS
    assert sha256(generator) == undisturbed


def test_an_experiment_decodes_ones_own_videos(tmp_path):
    checkout = Checkout(tmp_path)
    for number in range(4):
        write_mp4(checkout.path(f"data/mine/{number}.mp4"), np.full((48, 32, 32, 3), 60 * number, np.uint8), 24.0)
    checkout.recipe("kinetics-mini", "data.layout=folder", "data.root=data/mine")
    checkout.run("git", "add", ".")
    checkout.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a project")
    checkout.run(str(BIN / "dvc"), "exp", "run", "--temp", "-n", "shorter", "-S", "decode.max_frames=16", "decode")
    assert not checkout.path("data/pyramid").exists()  # it ran in a copy
    (experiment,) = checkout.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/shorter").split()
    checkout.run("git", "checkout", experiment, "--", "dvc.lock")
    checkout.run(str(BIN / "dvc"), "checkout", "data/pyramid")
    assert pd.read_parquet(checkout.path("data/pyramid/videos.parquet"))["n_frames"].tolist() == [16] * 4


@on_real_clips
def test_bdd_mini_ends_with_a_page(bdd):
    the_page_is_whole(bdd, 3)


@on_real_clips
def test_bdd_mini_is_unconditional_and_whole(bdd):
    videos = pd.read_parquet(bdd.path("data/pyramid/videos.parquet"))
    assert len(videos) == 6
    assert set(videos["label"]) == {-1}
    config = json.loads(bdd.path("artifacts/level-3/config.json").read_text())
    assert config["config"]["classes"] == 0


@on_real_clips
def test_bdd_mini_views_are_identical(bdd):
    the_views_are_identical(bdd, 3)

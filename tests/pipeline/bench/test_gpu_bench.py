"""The GPU's bench, on a CPU and tiny levels: what it finds, and that it needs next to nothing installed."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline.bench import gpu
from pipeline.bench.levels import PAPER, paper_levels
from pipeline.paths import Paths
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import TRAINING

ROOT = Path(__file__).parents[3]
LEVELS = {
    str(config.level): {"config": asdict(config), "training": asdict(TRAINING), "window": 4, "iteration_tflop": 1e-6}
    for config in (FIRST, SECOND)
}
ALONE = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from pipeline.bench.gpu import main
sys.argv = ["gpu", *{arguments!r}]
main()
"""


def test_levels_come_back_from_json():
    for config in (FIRST, SECOND):
        assert gpu.level_config(json.loads(json.dumps(asdict(config)))) == config


def test_it_runs_without_the_projects_other_packages(tmp_path):
    (tmp_path / "levels.json").write_text(json.dumps(LEVELS))
    missing = [
        "pydantic",
        "yaml",
        "ruamel",
        "zarr",
        "numcodecs",
        "pandas",
        "click",
        "mlflow",
        "prefect",
        "fsspec",
        "av",
    ]
    arguments = [str(tmp_path / "levels.json"), str(tmp_path / "out.json"), "--seconds", "0"]
    program = ALONE.format(missing=missing, arguments=arguments)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["device"] == "CPU" and set(found["tflop_a_second"]) == {"float32", "tf32", "bfloat16"}
    for off in found["off_by"].values():
        assert off["float32"] == off["float32 on the CPU"]
        assert all(0 < value < 1e-3 for value in off["float32"].values())
        assert all(value > 10 * off["float32"][name] for name, value in off["bfloat16"].items())


def test_batches_grow_and_kernels_are_named():
    cpu = torch.device("cpu")
    for way in ("float32", "plain PyTorch, bfloat16"):
        rows = list(islice(gpu.timed(LEVELS["2"], way, cpu, math.inf), 2))
        assert [row["clips"] for row in rows] == [2, 8]
        assert all(row["tflop_a_second"] == pytest.approx(1e-6 * row["clips"] / row["seconds"]) for row in rows)
    longest = gpu.kernels(LEVELS["1"], cpu, clips=2)
    assert len(longest) == 16 and 0 < sum(kernel["share"] for kernel in longest) <= 1


def test_memory_is_measured_by_length():
    level = {**LEVELS["1"], "frames": [3, 5]}
    rows = list(gpu.by_length(level, torch.device("cpu"), math.inf))
    assert {row["frames"] for row in rows} == {3, 5} and len({row["way"] for row in rows}) * 2 == len(rows)


def test_all_is_written_that_was_measured(tmp_path, monkeypatch, capsys):
    ways = ("bfloat16", "bfloat16, recompute", "float32")
    monkeypatch.setattr(gpu, "WAYS", {way: gpu.WAYS[way] for way in ways})
    monkeypatch.setattr(gpu, "COMPARED", ("float32",))
    monkeypatch.setattr(gpu, "CLIPS", (2,))
    gpu.run({"1": LEVELS["1"], "long": {**LEVELS["1"], "frames": [3]}}, tmp_path / "out.json", math.inf)
    found = json.loads((tmp_path / "out.json").read_text())
    assert {(row["level"], row["way"]) for row in found["memory_by_length"]} == {("long", way) for way in ways}
    assert [(row["level"], row["way"]) for row in found["iterations"]] == [("1", way) for way in ways]
    assert list(found["off_by"]) == list(found["kernels"]) == ["1"]
    parts = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert parts[-3:] == ["kernels", "iterations", "iterations"]


@pytest.mark.slow
def test_the_papers_levels_at_full_size():
    levels = paper_levels(Paths(ROOT))
    assert len(levels) == len(PAPER) + 3 == 6
    sizes = {name: gpu.level_config(levels[f"{name[0]} {name[1]}"]["config"]).view.size for name in PAPER}
    assert list(sizes.values()) == [128, 32, 256]
    fifth = [gpu.level_config(level["config"]) for level in levels.values() if "frames" in level]
    assert [(c.view.size, c.first_size, c.factor) for c in fifth] == [(64, 4, 1), (128, 4, 2), (128, 4, 1)]

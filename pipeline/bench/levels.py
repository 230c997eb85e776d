"""Levels as plain values: what `pipeline.bench.gpu` takes where no parameter file can be read."""

from dataclasses import asdict
from typing import Any

from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.project.describe import describe

PAPER = (("kinetics-48x128", 2), ("kinetics-48x128", 1), ("bdd-48x256", 3))  # recipe, level


def paper_levels(paths: Paths) -> dict[str, dict[str, Any]]:
    """The levels that the paper's results rest on, at full size."""
    recipes = {name: load_params(paths.root / "recipes" / f"{name}.yaml") for name, _ in PAPER}
    described = {name: describe(params)["levels"] for name, params in recipes.items()}
    return {
        f"{name} {level}": plain_level(recipes[name], level, described[name][str(level)]["iteration_tflop"])
        for name, level in PAPER
    }


def plain_level(params: Params, level: int, iteration_tflop: float) -> dict[str, Any]:
    """A level's networks and training; iteration_tflop: of a clip."""
    return {
        "config": asdict(params.level(level, params.data.classes or 0)),
        "training": asdict(params.of_level(level).training),
        "window": params.window(level),
        "iteration_tflop": iteration_tflop,
    }

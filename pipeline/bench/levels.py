"""Levels as plain values: what `pipeline.bench.gpu` takes where no parameter file can be read."""

from dataclasses import asdict, replace
from typing import Any

from models.config import LevelConfig, View
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.project.describe import describe

PAPER = (("kinetics-48x128", 2), ("kinetics-48x128", 1), ("bdd-48x256", 3))  # recipe, level


def paper_levels(paths: Paths) -> dict[str, dict[str, Any]]:
    """The levels that the paper's results rest on, at full size."""
    recipes = {name: load_params(paths.root / "recipes" / f"{name}.yaml") for name, _ in PAPER}
    described = {name: describe(params)["levels"] for name, params in recipes.items()}
    levels = {
        f"{name} {level}": plain_level(recipes[name], level, described[name][str(level)]["iteration_tflop"])
        for name, level in PAPER
    }
    kinetics = recipes["kinetics-48x128"]
    one, two = (kinetics.level(level, kinetics.data.classes or 0) for level in (1, 2))
    for name, config, frames in figure_5(one, two):
        of = 2 if config.condition else 1
        like = {k: v for k, v in levels[f"kinetics-48x128 {of}"].items() if k != "iteration_tflop"}
        levels[f"figure 5, {name}"] = {**like, "config": asdict(config), "frames": frames}
    return levels


def figure_5(one: LevelConfig, two: LevelConfig) -> list[tuple[str, LevelConfig, list[int]]]:
    """What Figure 5 compares, of two levels of Kinetics: 64x64 at half the frames, 128x128 from 6 frames of it, and
    128x128 without a hierarchy, each with lengths to measure.

    PAPER: the networks are not said; those of Table 1, without a hierarchy G's widths of level 2 behind ConvGRUs.
    """
    small = replace(one, view=View(frames=24, size=64), generator=replace(one.generator, last_unit_upsamples=True))
    large = replace(two, condition=small.view)
    whole = replace(two.generator, temporal_layer=one.generator.temporal_layer)
    unmatched = replace(two.discriminators, matching=False)
    alone = replace(two, level=1, condition=None, generator=whole, discriminators=unmatched)
    return [("level 1", small, [12, 48, 96]), ("level 2", large, [6]), ("without a hierarchy", alone, [12, 48, 96])]


def plain_level(params: Params, level: int, iteration_tflop: float) -> dict[str, Any]:
    """A level's networks and training; iteration_tflop: of a clip."""
    return {
        "config": asdict(params.level(level, params.data.classes or 0)),
        "training": asdict(params.of_level(level).training),
        "window": params.window(level),
        "iteration_tflop": iteration_tflop,
    }

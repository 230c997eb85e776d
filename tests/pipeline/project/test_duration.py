"""How long everything is said to take."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.params import load_params
from pipeline.project.describe import describe
from pipeline.project.duration import EFFICIENCY, rounded, seconds_by_level


def test_the_seconds_of_a_level_follow_from_its_arithmetic():
    params = load_params(Path("recipes/shapes.yaml"))
    counts = describe(params)["levels"]["1"]
    level = params.levels["1"]
    twice = replace(level, training=replace(level.training, iterations=2 * level.training.iterations))
    once = seconds_by_level(params, 1e11)
    more = seconds_by_level(replace(params, levels={**params.levels, "1": twice}), 1e11)
    training = level.training.iterations * level.training.batch * counts["iteration_tflop"] * 1e12
    assert more["1"] - once["1"] == pytest.approx(training / (1e11 * EFFICIENCY))
    assert more["2"] == once["2"]
    assert seconds_by_level(params, 5e10)["2"] == pytest.approx(2 * once["2"])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "a minute"), (600, "10 minutes"), (3 * 3600, "3 hours"), (10 * 86400, "10 days")],
)
def test_a_duration_for_a_person(seconds, said):
    assert rounded(seconds) == said

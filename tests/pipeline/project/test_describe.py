from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.params import load_params
from pipeline.project.describe import describe, description_text

# recipe, level: M parameters of G and of each D, forward TFLOP of G a clip, GiB saved a clip. Counted by hand for the
# plain formulation, of which folded convolutions and fused norms save SAVED.
COUNTS = {
    ("kinetics-48x128", "1"): (306, (159, 167), 2.92, 2.1),
    ("kinetics-48x128", "2"): (170, (90, 91, 91), 1.36, 2.9),
    ("bdd-24x128", "1"): (306, (157, 166), 2.11, 2.5),
    ("bdd-24x128", "2"): (93, (89, 90, 90), 0.76, 2.3),
    ("bdd-48x256", "3"): (78, (100, 101, 101), 2.27, 8.8),
}
SAVED = 0.48, 0.65
ITERATION = {("kinetics-48x128", "1"): 16.1, ("kinetics-48x128", "2"): 10.0, ("bdd-48x256", "3"): 23.9}
FULL_LENGTH = {("kinetics-48x128", "2"): (5.42, 10.8), ("bdd-48x256", "3"): (9.09, 31.5)}


@pytest.fixture(scope="module")
def described():
    names = {name for name, _ in COUNTS}
    return {name: describe(load_params(Path(f"recipes/{name}.yaml")), full_length=True) for name in names}


@pytest.mark.parametrize("place", COUNTS, ids="-".join)
def test_full_size_counts(described, place):
    name, level = place
    g, d, tflop, gib = COUNTS[place]
    got = described[name]["levels"][level]
    assert got["generator_parameters"] / 1e6 == pytest.approx(g, rel=0.03)
    assert list(got["discriminator_parameters"]) == ["spatial", "temporal", "matching"][: len(d)]
    for ours, expected in zip(got["discriminator_parameters"].values(), d, strict=True):
        assert ours / 1e6 == pytest.approx(expected, rel=0.03)
    assert got["forward_tflop"] == pytest.approx(tflop, rel=0.03)
    assert SAVED[0] * gib < got["saved_activation_gib"] < SAVED[1] * gib


@pytest.mark.parametrize("place", ITERATION, ids="-".join)
def test_a_whole_iteration(described, place):
    assert described[place[0]]["levels"][place[1]]["iteration_tflop"] == pytest.approx(ITERATION[place], rel=0.03)


@pytest.mark.parametrize("place", FULL_LENGTH, ids="-".join)
def test_at_full_length(described, place):
    tflop, gib = FULL_LENGTH[place]
    full = described[place[0]]["levels"][place[1]]["full_length"]
    assert full["forward_tflop"] == pytest.approx(tflop, rel=0.03)
    assert SAVED[0] * gib < full["saved_activation_gib"] < SAVED[1] * gib


def test_the_table_has_a_row_a_level(described):
    table = description_text(described["bdd-48x256"]).splitlines()
    assert [line.split()[0] for line in table[:4]] == ["level", "1", "2", "3"]
    assert "6/128x128 -> 12/256x256" in table[3]


def test_activations_computed_again_are_not_kept(described):
    params = load_params(Path("recipes/kinetics-48x128.yaml"))
    level = params.levels["2"]
    again = replace(
        params, levels={**params.levels, "2": replace(level, training=replace(level.training, recompute=True))}
    )
    plain, less = described["kinetics-48x128"]["levels"]["2"], describe(again)["levels"]["2"]
    assert less["saved_activation_gib"] < plain["saved_activation_gib"] / 3
    # once more forward through G's units, beside two forward and one backward pass of G and those of D
    more = less["iteration_tflop"] - plain["iteration_tflop"]
    assert 0.9 * plain["forward_tflop"] < more < 1.1 * plain["forward_tflop"]


def test_making_conditions_costs_their_videos_and_their_recalibration():
    params = load_params(Path("recipes/bdd-48x256.yaml"))
    counts = describe(params)
    whole = {level: 2 * counts["levels"][level]["forward_tflop"] for level in ("1", "2")}
    whole["1"] /= 2  # level 1 is trained on whole views, level 2 on 6 of 12 frames
    wanted = {level: params.conditions[level].train + params.conditions[level].measure for level in ("1", "2")}
    passes = 200 * 512
    tflop = {"1": (wanted["1"] + passes) * whole["1"], "2": wanted["2"] * whole["2"] + passes * sum(whole.values())}
    for level, above in (("1", "2"), ("2", "3")):
        served = 100_000 * 512 * counts["levels"][above]["iteration_tflop"]
        assert counts["conditions"][level]["share_of_training"] == pytest.approx(tflop[level] / served)
    assert counts["conditions"]["1"]["bytes"] == wanted["1"] * 12 * 64 * 64 * 3

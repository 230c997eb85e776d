"""The paper's numbers stand beside ours where everything agrees, and nowhere else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.metrics.weights import INSTALLED_SHA256
from pipeline.params import Params, load_params
from pipeline.report.html import environment
from pipeline.report.page import class_table, measurements
from pipeline.report.paper import class_numbers, rows_beside

RECIPES = Path(__file__).parents[3] / "recipes"
NAMES = {"fvd", "fid", "inception_score", "grounding_psnr_level_2"}


def recipe(name: str) -> Params:
    return load_params(RECIPES / f"{name}.yaml")


def protocol(frames: int, size: int, **other: Any) -> dict[str, Any]:
    given = {"frames": frames, "size": size, "frame_step": 4, "sigma": 1.0, "precision": "float32"}
    counted = {"real_videos": 9900, "generated_videos": 50000, "splits": 10, "logits_sha256": INSTALLED_SHA256}
    return given | counted | other


def found(params: Params, frames: int, size: int, classes: int = 600, names: set[str] = NAMES, **other: Any) -> list:
    rows, _ = rows_beside(params, classes, protocol(frames, size, **other), names)
    return [(row.table, row.name, row.numbers) for row in rows]


def with_window(params: Params, window: int, matching: bool = True) -> Params:
    top = params.levels["2"]
    training = replace(top.training, window=window)
    discriminators = replace(top.discriminators, matching=matching)
    changed = replace(top, training=training, discriminators=discriminators)
    return replace(params, levels={**params.levels, "2": changed})


def test_the_paper_s_own_recipes_find_their_rows():
    kinetics = recipe("kinetics-48x128")
    assert found(kinetics, 48, 128) == [
        ("Table 1", "HVG", {"inception_score": 77.36, "fid": 14.0, "fvd": 517.21}),
        ("Table 1", "DVD-GAN", {"inception_score": 81.41, "fid": 28.44}),
    ]
    assert [numbers["fid"] for _, _, numbers in found(kinetics, 12, 128)] == [2.09, 1.16]
    bdd = recipe("bdd-48x256")
    assert found(bdd, 48, 256, classes=0, frame_step=2) == [("Table 5", "3-level HVG", {"fid": 21.38, "fvd": 391.69})]
    assert [numbers["fvd"] for _, _, numbers in found(bdd, 12, 256, classes=0, frame_step=2)] == [541.37]


def test_other_windows_find_the_ablations():
    kinetics = recipe("kinetics-48x128")
    three = [(table, name) for table, name, _ in found(with_window(kinetics, 3), 48, 128)]
    assert three == [("Table 1", "DVD-GAN"), ("Table 2", "HVG"), ("Table 3", "3-frame HVG")]
    blind = found(with_window(kinetics, 3, matching=False), 6, 128)
    assert blind == [("Table 2", "HVG, no MD", {"inception_score": 50.31, "fid": 1.62, "fvd": 594.99})]


@pytest.mark.parametrize(
    "different",
    [
        {"frames": 24},
        {"size": 64},
        {"classes": 400},
        {"frame_step": 2},
        {"frame_step": None},
        {"sigma": 0.5},
        {"precision": "bfloat16"},
        {"generated_videos": 2000, "splits": 1},
        {"names": {"random_i3d_frechet_logits", "random_i3d_frechet_pooled"}},
    ],
)
def test_nothing_stands_beside_another_setting(different):
    assert found(recipe("kinetics-48x128"), **{"frames": 48, "size": 128, **different}) == []


IS, FVD, FID = "inception_score", "fvd", "fid"


@pytest.mark.parametrize(
    ("different", "beside", "why"),
    [
        ({}, {IS, FID, FVD}, ""),
        ({"generated_videos": 10000}, {FID, FVD}, f"{IS} (N 10,000 and splits 10, not 50,000 and 10)"),
        ({"splits": 1}, {FID, FVD}, f"{IS} (N 50,000 and splits 1, not 50,000 and 10)"),
        ({"logits_sha256": "ab" * 32}, {FID}, f"{IS} (other weights than DeepMind's of Kinetics-400), {FVD} (other"),
        ({"names": {FVD, "fid_k400", IS}}, {FVD, IS}, f"{FID} (not measured)."),
        ({"real_videos": 512}, {IS}, f"{FID} (512 videos, not 9,000), {FVD} (512 videos, not 9,000)."),
        ({"precision": "bfloat16"}, set(), "No row of the paper is of this setting: Table 1's HVG differs in pre"),
        ({"sigma": 0.5, "frame_step": 8}, set(), "Table 1's HVG differs in frame step, sigma."),
    ],
)
def test_a_number_stands_beside_another_of_as_many_videos_by_the_same_network(different, beside, why):
    names = different.get("names", NAMES)
    setting = protocol(48, 128, **{key: value for key, value in different.items() if key != "names"})
    rows, reason = rows_beside(recipe("kinetics-48x128"), 600, setting, names)
    assert set(rows[0].numbers if rows else ()) == beside
    assert why in reason and bool(why) == bool(reason)


def test_other_data_is_said_to_be_other_data():
    _, why = rows_beside(recipe("shapes"), 8, protocol(16, 32), NAMES)
    assert "Table 1's HVG differs in classes, views, window, frames, size." in why


def test_another_hierarchy_has_other_models_beside_it_alone():
    kinetics = recipe("kinetics-48x128")
    assert [name for _, name, _ in found(with_window(kinetics, 9), 48, 128)] == ["DVD-GAN"]
    faster = replace(kinetics, decode=replace(kinetics.decode, frame_step=2))
    assert found(faster, 48, 128, frame_step=2) == []
    assert found(recipe("folder"), 48, 128) == []
    assert found(recipe("bdd-24x128"), 24, 128, classes=0) == []


def test_numbers_that_only_we_have_stay_alone():
    (hvg, gan) = found(recipe("kinetics-48x128"), 48, 128, names={"fvd", "fid"})
    assert hvg[2] == {"fid": 14.0, "fvd": 517.21} and gan[2] == {"fid": 28.44}
    assert [row[1] for row in found(recipe("kinetics-48x128"), 48, 128, names={"fvd"})] == ["HVG"]


def test_what_still_differs_is_said_of_its_row_alone():
    """DVD-GAN's frame rate is not known."""
    kinetics = recipe("kinetics-48x128")
    whole, gan = (row.note for row in rows_beside(kinetics, 600, protocol(48, 128), NAMES)[0])
    window, same = (row.note for row in rows_beside(kinetics, 600, protocol(12, 128), NAMES)[0])
    assert whole == window == ""
    assert gan == same and gan.startswith("DVD-GAN's") and "frame rate" in gan


def test_bdd_in_table_2_says_which_sizes_it_assumes():
    kinetics = with_window(recipe("kinetics-48x128"), 3)
    bdd = replace(kinetics, data=replace(kinetics.data, layout="bdd100k", classes=0))
    (row,) = rows_beside(bdd, 0, protocol(48, 128), NAMES)[0]
    assert (row.table, row.numbers) == ("Table 2", {"fid": 18.73, "fvd": 326.78})
    assert "does not say of which sizes" in row.note and "24/32x32, 48/128x128, one of 4 native frames" in row.note
    notes = {row.table: row.note for row in rows_beside(kinetics, 600, protocol(48, 128), NAMES)[0]}
    assert notes["Table 2"] == ""


def test_the_page_says_what_differs_below_its_table_and_sets_nothing_beside_what_is_cut_out():
    evaluation: dict[str, Any] = {"metrics": {"fid": 20.0}, "protocol": protocol(48, 128)}
    for name in ("windows", "cut_windows"):
        evaluation |= {name: {"fid": 20.0}, f"{name}_protocol": protocol(12, 128)}
    shown = environment().from_string('{% from "parts.html" import measurement %}{{ measurement(part) }}')
    parts = measurements(recipe("kinetics-48x128"), 600, evaluation)
    whole, windows, cut = (shown.render(part=part) for part in parts)
    assert "are its authors&#39;" in whole and "are its authors&#39;" in windows.split("</table>")[1]
    assert "The paper&#39;s windows are not cut out of whole videos." in cut and "DVD-GAN" not in cut


def test_table_4_needs_a_thousand_samples_of_a_class():
    kinetics, whole = recipe("kinetics-48x128"), protocol(48, 128)
    many = {"class": "yawning", "real": 799, "generated": 1000}
    assert class_numbers(kinetics, 600, whole, {**many, "class": "Bungee jumping"}) == {
        "inception_score": 11.66,
        "fid": 82.21,
    }
    assert class_numbers(kinetics, 600, whole, {**many, "generated": 17}) == {}
    assert class_numbers(kinetics, 600, whole, {**many, "real": 50}) == {}
    assert class_numbers(kinetics, 600, whole, {**many, "class": "abseiling"}) == {}
    assert class_numbers(with_window(kinetics, 3), 600, whole, many) == {}
    for other in ({"precision": "bfloat16"}, {"frame_step": 2}, {"sigma": 0.5}):
        assert class_numbers(kinetics, 600, whole | other, many) == {}


def test_windows_say_what_differs_in_their_protocol():
    kinetics = recipe("kinetics-48x128")
    metrics = {"fvd": 600.0, "fid": 20.0, "inception_score": 50.0}
    evaluation = {"metrics": metrics, "protocol": protocol(48, 128, start="whole", seed=0)}
    (alone,) = measurements(kinetics, 600, evaluation)
    assert alone.title == "Whole videos: 48 frames" and alone.metrics[1].values == ("20", "14.00", "28.44")
    assert alone.metrics[0].values == ("600", "517.21", "")
    evaluation |= {"windows": metrics, "windows_protocol": protocol(12, 128, start="random", seed=0)}
    _, windows = measurements(kinetics, 600, evaluation)
    assert windows.title == "Windows as in training: 12 frames" and windows.metrics[1].values == ("20", "2.09", "1.16")
    assert windows.protocol == {"frames": "12", "start": "random"}


def test_classes_stand_in_the_order_of_their_distance():
    kinetics, whole = recipe("kinetics-48x128"), protocol(48, 128)
    columns = ["class", "real", "generated", "fvd", "fid", "inception_score"]
    rows = [("abseiling", 700, 1000, 900.0, 95.5, 8.0), ("yawning", 530, 1000, 999.0, 80.25, 9.0)]
    table = class_table(kinetics, 600, pd.DataFrame(rows, columns=columns), whole)
    assert list(table.columns) == [*columns, "fid, Table 4", "inception_score, Table 4"]
    assert table.values.tolist()[0] == ["yawning", "530", "1000", "999.0", "80.25", "9.0", "79.08", "9.71"]
    assert table["class"].tolist() == ["yawning", "abseiling"] and table.values.tolist()[1][-2:] == ["", ""]
    few = class_table(kinetics, 600, pd.DataFrame([rows[0]], columns=columns), whole)
    assert list(few.columns) == columns
    assert class_table(kinetics, 600, pd.DataFrame(columns=columns), whole).empty
    assert class_table(kinetics, 600, pd.DataFrame(), whole).empty

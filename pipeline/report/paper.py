"""The paper's own numbers, each with its setting: they stand beside ours only where the setting is ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.params import Params

# PAPER: gives no number of videos. A Frechet distance falls with it; BDD100K's held-out split has not quite 10,000.
FEWEST = 9000
CLASS_FEWEST = {"generated": 1000, "real": 400}  # App. E: 1000, against all of a class, which are 441 to 983
SIGMA = 1.0  # App. H
PRECISION = "float32"  # bfloat16 moves a distance by percents: docs/metrics.md
CLASS_TABLE = "Table 4"
NUMBERS = ("inception_score", "fid", "fvd")  # by the names of our metrics


@dataclass(frozen=True)
class PaperRow:
    """A row of a table. note: what still differs where it stands beside ours; empty where that is not known."""

    table: str
    name: str
    numbers: dict[str, float]
    note: str


def rows_beside(params: Params, classes: int, protocol: Mapping[str, Any], names: set[str]) -> list[PaperRow]:
    """The rows measured as ours were, each with those of its numbers that `names`, our metrics, have too.

    Data, classes, frames, size, frame rate and sigma must agree, a hierarchy also in its views, window and matching
    discriminator; there must be videos enough, measured in float32. A random I3D's metrics have other names, and
    nothing beside them.

    Args:
        classes: that the networks know, 0 for none.
        protocol: as metrics.json has it, of the whole videos or of the windows.
    """
    if min(protocol["real_videos"], protocol["generated_videos"]) < FEWEST:
        return []
    rows = []
    for row in _measured_alike(params, classes, protocol):
        shared = {name: number for name, number in _numbers(row).items() if name in names}
        if shared and row["table"] != CLASS_TABLE:
            rows.append(PaperRow(row["table"], row["name"], shared, _note(row)))
    return rows


def class_numbers(
    params: Params, classes: int, protocol: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, float]:
    """The numbers in Table 4 of a class; none where settings differ.

    ours: its row of our table, with its name as `class` and the numbers of its videos, `real` and `generated`.
    """
    if any(ours[side] < fewest for side, fewest in CLASS_FEWEST.items()):
        return {}
    rows = _measured_alike(params, classes, protocol)
    of_class = (row for row in rows if row["table"] == CLASS_TABLE and row["class"] == ours["class"].lower())
    return next(map(_numbers, of_class), {})


def _measured_alike(params: Params, classes: int, protocol: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of paper.csv whose setting is ours."""
    if (protocol["sigma"], protocol["precision"]) != (SIGMA, PRECISION):
        return []
    views = [params.view(level) for level in range(1, params.n_levels + 1)]
    upper = range(2, params.n_levels + 1)
    ours = {
        "layout": params.data.layout,
        "classes": str(classes),
        "views": " ".join(f"{view.frames}/{view.size}x{view.size}" for view in views),
        "window": " ".join({str(params.window(level)) for level in upper}),  # no row has several
        "matching": " ".join({"yes" if params.of_level(level).discriminators.matching else "no" for level in upper}),
        **{key: str(protocol[key]) for key in ("frame_step", "frames", "size")},
    }
    table = pd.read_csv(Path(__file__).with_name("paper.csv"), comment="#", dtype=str, keep_default_na=False)
    return [row for row in table.to_dict("records") if all(row[key] in ("", value) for key, value in ours.items())]


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in NUMBERS if row[name]}


def _note(row: Mapping[str, str]) -> str:
    if not row["views"]:
        return (
            f"{row['name']}'s numbers are its authors'. The paper sets them beside its own of this frame rate, and says"
            " neither at which frame rate nor with which noise they were measured."
        )
    return ""

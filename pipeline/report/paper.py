"""The paper's own numbers, each with its setting: they stand beside ours only where the setting is ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.metrics.weights import INSTALLED_SHA256
from pipeline.params import Params

# PAPER: gives no number of videos. A Frechet distance falls with it; BDD100K's held-out split has not quite 10,000.
FEWEST = 9000
# PAPER: nor of splits. 50,000 samples in 10 is what is usual; 10,000 in 10 come out 9 to 15 % lower.
SCORED, SPLITS = 50_000, 10
CLASS_FEWEST = {"generated": 1000, "real": 400}  # App. E: 1000, against all of a class, which are 441 to 983
SIGMA = "1.0"  # App. H
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


def rows_beside(
    params: Params, classes: int, protocol: Mapping[str, Any], names: set[str]
) -> tuple[list[PaperRow], str]:
    """The rows measured as ours were, each with those of its numbers that compare, and in a line why others do not.

    Data, classes, frames, size, frame rate, sigma and precision must agree, a hierarchy also in its views, window and
    matching discriminator; a number in videos, splits and weights. No weights of Kinetics-600 are pinned: `fid` is what
    people's own gave.

    Args:
        classes: that the networks know, 0 for none.
        protocol: as protocol.json has it, of the whole videos or of the windows.
        names: of our metrics; a random I3D's are others.
    """
    ours = _setting(params, classes, protocol)
    different = [(_different(row, ours), row) for row in _table() if row["table"] != CLASS_TABLE]
    alike = [row for keys, row in different if not keys]
    if not alike:
        keys, row = min((pair for pair in different if pair[1]["views"]), key=lambda pair: len(pair[0]))
        nearest = f"{row['table']}'s {row['name']}"
        return [], f"No row of the paper is of this setting: {nearest} differs in {', '.join(keys)}."
    apart = {name: _apart(name, protocol) if name in names else "not measured" for name in NUMBERS}
    rows, lacking = [], {}
    for row in alike:
        numbers = _numbers(row)
        lacking |= {name: apart[name] for name in numbers if apart[name]}
        if shared := {name: number for name, number in numbers.items() if not apart[name]}:
            rows.append(PaperRow(row["table"], row["name"], shared, _note(row)))
    reasons = ", ".join(f"{name} ({reason})" for name, reason in lacking.items())
    return rows, f"No number of the paper stands beside {reasons}." if reasons else ""


def class_numbers(
    params: Params, classes: int, protocol: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, float]:
    """The numbers in Table 4 of a class; none where settings, weights or numbers of videos differ.

    ours: its row of our table, with its name as `class` and the numbers of its videos, `real` and `generated`.
    """
    if any(ours[side] < fewest for side, fewest in CLASS_FEWEST.items()):
        return {}
    setting = _setting(params, classes, protocol) | {"class": ours["class"].lower()}
    row = next((row for row in _table() if row["table"] == CLASS_TABLE and not _different(row, setting)), None)
    return {name: number for name, number in _numbers(row or {}).items() if not _other_weights(name, protocol)}


def table_4_classes() -> tuple[str, ...]:
    return tuple(row["class"] for row in _table() if row["table"] == CLASS_TABLE)


def _table() -> list[dict[str, str]]:
    table = pd.read_csv(Path(__file__).with_name("paper.csv"), comment="#", dtype=str, keep_default_na=False)
    return table.assign(sigma=SIGMA, precision=PRECISION).to_dict("records")


def _setting(params: Params, classes: int, protocol: Mapping[str, Any]) -> dict[str, str]:
    """Ours, by the columns of the paper's table."""
    views = [params.view(level) for level in range(1, params.n_levels + 1)]
    upper = range(2, params.n_levels + 1)
    return {
        "layout": params.data.layout,
        "classes": str(classes),
        "views": " ".join(f"{view.frames}/{view.size}x{view.size}" for view in views),
        "window": " ".join({str(params.window(level)) for level in upper}),  # no row has several
        "matching": " ".join({"yes" if params.of_level(level).discriminators.matching else "no" for level in upper}),
        **{key: str(protocol[key]) for key in ("frame_step", "frames", "size", "sigma", "precision")},
    }


def _different(row: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what a row's setting is another one than ours."""
    return [key.replace("_", " ") for key, value in ours.items() if row[key] not in ("", value)]


def _apart(name: str, protocol: Mapping[str, Any]) -> str:
    """Why a number of ours does not compare with those of the same setting; empty where it does."""
    generated, splits = protocol["generated_videos"], protocol["splits"]
    fewest = min(generated, protocol["real_videos"])
    if name == "inception_score":
        if generated < SCORED or splits != SPLITS:
            return f"N {generated:,} and splits {splits}, not {SCORED:,} and {SPLITS}"
    elif fewest < FEWEST:
        return f"{fewest:,} videos, not {FEWEST:,}"
    return _other_weights(name, protocol)


def _other_weights(name: str, protocol: Mapping[str, Any]) -> str:
    same = name == "fid" or protocol["logits_sha256"] == INSTALLED_SHA256
    return "" if same else "other weights than DeepMind's of Kinetics-400"


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in NUMBERS if row.get(name)}


def _note(row: Mapping[str, str]) -> str:
    if not row["views"]:
        return (
            f"{row['name']}'s numbers are its authors'. The paper sets them beside its own of this frame rate, and says"
            " neither at which frame rate nor with which noise they were measured."
        )
    if (row["table"], row["layout"]) == ("Table 2", "bdd100k"):
        return (
            "The paper does not say of which sizes Table 2's models of BDD100K are. They are taken to be as those of"
            f" Kinetics-600: {row['views'].replace(' ', ', ')}, one of {row['frame_step']} native frames."
        )
    return ""

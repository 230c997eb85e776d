"""What became of the listed videos: the tables beside a pyramid's arrays, and what they amount to in a few words."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64
from jinja2.filters import do_filesizeformat

from pipeline.data.store.opening import WAY_OUT, finished_size, read_table
from pipeline.data.windows import windows_of_videos
from pipeline.errors import UserError, reading
from pipeline.params import Params

EXAMPLES = 3  # of paths a kind
LOGGED = 5  # kinds of one table in the log
NAME, TEXT = 100, 240  # characters of a class's name; of a path or a reason
LEFT_OUT = {
    "failed": "could not be decoded",
    "short": "too short",
    "missing": "annotated, but without a file",
    "unlisted": "in no split",
}
NOTED = "kept, but not plain"
_NUMBER = re.compile(r"(?<![A-Za-z\d.])\d+(?:\.\d+)?(?:x\d+)?")  # h264 and mp4 are none


@dataclass(frozen=True)
class Kind:
    """Reasons that differ in their numbers alone, with some of the files."""

    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Windows:
    """What a level can be trained on. needs: frames of the top view that a video must have."""

    level: int
    needs: int
    videos: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The tables of decode.

    kept: path, split, class, n_frames, fps, width, height, seconds, codec, notes, row and label.
    noted: path and reason of the kept ones that are not plain, such as what was cut out of one.
    left_out: path and reason, by the keys of LEFT_OUT.
    splits: by name, how many videos were kept, are too short, failed and are missing.
    classes: names of all classes found, sorted, of videos without a file included.
    """

    kept: pd.DataFrame
    noted: pd.DataFrame
    left_out: dict[str, pd.DataFrame]
    splits: dict[str, list[int]]
    classes: list[str]

    @property
    def trained(self) -> Int64[np.ndarray, " videos"]:
        """Frames of the top view of the training videos."""
        return self.kept.loc[self.kept["split"] == "train", "n_frames"].to_numpy(np.int64)


def read_outcome(pyramid: Path) -> Outcome:
    """The tables in the folder of a finished pyramid. Raises UserError where there is none, or one is damaged."""
    kept = read_table(pyramid)
    if "notes" not in kept:
        raise UserError(f"{pyramid}: made by an older version; `hvg repro decode` makes it anew")
    tables = {name: read_left_out(pyramid / f"{name}.csv") for name in LEFT_OUT}
    missing = tables["missing"]
    known = (kept, tables["short"], tables["failed"], missing)
    names = sorted({name for table in known for name in table["split"]}, key=_place)
    counts = [Counter(table["split"]) for table in known]
    without_file = pd.DataFrame({"path": missing["name"], "reason": "in " + missing["split"]})
    return Outcome(
        kept=kept,
        noted=kept.loc[kept["notes"] != "", ["path", "notes"]].rename(columns={"notes": "reason"}),
        left_out={**tables, "missing": without_file},
        splits={name: [count[name] for count in counts] for name in names},
        classes=sorted({name for table in known for name in table["class"]} - {""}),
    )


def read_left_out(table: Path) -> pd.DataFrame:
    """One of a pyramid's tables of what is not in it; a name may hold a carriage return."""
    with reading(table, WAY_OUT):
        return pd.read_csv(table, dtype=str, keep_default_na=False, lineterminator="\n")


def log_lines(pyramid: Path, params: Params) -> list[str]:
    """A finished pyramid in a few lines of text."""
    outcome, size = read_outcome(pyramid), finished_size(pyramid)
    first = max(map(len, outcome.splits))
    lines = [" " * first + "".join(f"{name:>12}" for name in ("kept", "too short", "failed", "missing"))]
    lines += [f"{name:{first}}" + "".join(f"{n:12,}" for n in counts) for name, counts in outcome.splits.items()]
    for name, table in {**outcome.left_out, "noted": outcome.noted}.items():
        what = LEFT_OUT.get(name, NOTED)
        lines += [f"{kind.count:,} {what}: {kind.reason}; {kind.examples[0]}" for kind in kinds(table)[:LOGGED]]
    files, stored = sum(size.files.values()), do_filesizeformat(sum(size.bytes.values()))
    lines.append(f"{outcome.kept['n_frames'].sum():,} frames of the top view, {stored} in {files:,} shard files")
    levels = [training_windows(params, level, outcome.trained) for level in range(1, params.n_levels + 1)]
    return [*lines, *(f"level {w.level}: {w.windows:,} windows in {w.videos:,} training videos" for w in levels)]


def training_windows(params: Params, level: int, n_frames: Int64[np.ndarray, " videos"]) -> Windows:
    """The windows of videos with so many frames of the top view, as params has them."""
    window = params.window(level)
    lengths, counts = np.unique(n_frames, return_counts=True)
    found = windows_of_videos(lengths, params.factors, level, window)
    needs = window * math.prod(params.factors[max(level - 2, 0) :])
    return Windows(level, needs, int(counts[found > 0].sum()), int(counts @ found))


def top_rate(params: Params, videos: pd.DataFrame) -> float:
    """Frames a second of the top view, in the middle of a pyramid's videos."""
    return params.decode.fps or float(np.median(videos["fps"])) / (params.decode.frame_step or 1)


def kinds(table: pd.DataFrame) -> list[Kind]:
    """A table's paths grouped by the reasons without their numbers, the most frequent first."""
    found = []
    for _, rows in table.groupby(table["reason"].str.replace(_NUMBER, "\0", regex=True)):
        examples = [visible(path, TEXT) for path in rows["path"][:EXAMPLES]]
        found.append(Kind(visible(_common(list(rows["reason"].unique())), TEXT), len(rows), examples))
    return sorted(found, key=lambda kind: -kind.count)


def visible(text: str, longest: int = NAME) -> str:
    """A name from a file for people: control characters and what turns the reading direction as escapes, shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _place(split: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(split) if split in order else len(order), split)


def _common(reasons: list[str]) -> str:
    """One wording for reasons that differ in numbers alone: those that do not differ stay."""
    places = zip(*map(_NUMBER.findall, reasons), strict=True)
    numbers = iter([found[0] if len(set(found)) == 1 else "…" for found in places])
    return _NUMBER.sub(lambda _: next(numbers), reasons[0])

"""What a person reads after decoding: summary.html beside the store's tables, and a few lines in the log."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64
from jinja2.filters import do_filesizeformat

from pipeline.data.layouts.index import Index
from pipeline.data.page.histogram import Histogram, of_ranges, of_values
from pipeline.data.page.html import TEMPLATE, environment
from pipeline.data.store.size import StoreSize
from pipeline.data.windows import windows_of_videos
from pipeline.params import Params

KINDS = 20  # of reasons that are shown; the rest is counted
EXAMPLES = 3  # of paths a kind
CLASSES = 1000  # that are shown
NAME, TEXT = 100, 240  # characters of a class's name; of a path or a reason
_NUMBER = re.compile(r"(?<![A-Za-z\d.])\d+(?:\.\d+)?(?:x\d+)?")  # h264 and mp4 are none


@dataclass(frozen=True)
class Kind:
    """Reasons that differ in their numbers alone, with some of the files."""

    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class LeftOut:
    """Files of one table, by why they are left out. more: kinds that are not shown."""

    title: str
    file: str
    count: int
    kinds: list[Kind]
    more: int


@dataclass(frozen=True)
class ClassCount:
    """Videos kept of a class, by split and in all. share: of the largest class's, 0 to 1."""

    name: str
    splits: list[int]
    count: int
    share: float


@dataclass(frozen=True)
class Windows:
    """What a level can be trained on. needs: frames of the top view that a video must have."""

    level: int
    needs: int
    videos: int
    windows: int


@dataclass(frozen=True)
class View:
    """One array of the store."""

    level: int
    frames: str
    codec: str
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of the listed videos, as plain values. Names from files are made visible and not too long.

    splits: by name, how many were kept, are too short, failed and are missing.
    classes: the most frequent first; more_classes: that are not shown; untrained: without a video to be trained on.
    trained: videos of the training split.
    """

    splits: dict[str, list[int]]
    kept: int
    videos: int
    frames: int
    seconds: float
    left_out: list[LeftOut]
    classes: list[ClassCount]
    more_classes: int
    untrained: list[str]
    histograms: list[Histogram]
    trained: int
    windows: list[Windows]
    views: list[View]


def summarise(table: pd.DataFrame, index: Index, params: Params, size: StoreSize) -> Summary:
    """Count what there is to say.

    table: a row for every video of the index, with columns path, split, class, n_frames, fps, width, height, seconds,
        codec, status and reason as decode has them.
    """
    kept = table.loc[table["status"] == "kept"]
    short = table.loc[table["status"] == "short"]
    failed = table.loc[~table["status"].isin(("kept", "short"))]
    missing = index.missing
    names = sorted({*table["split"], *missing["split"]}, key=_place)
    counts = [Counter(part["split"]) for part in (kept, short, failed, missing)]
    frames, seconds, sides = (kept[name].to_numpy() for name in ("n_frames", "seconds", ["width", "height"]))
    trained = frames[kept["split"].to_numpy() == "train"].astype(np.int64)
    classes = _classes(kept, index, names)
    without_file = pd.DataFrame({"path": missing["name"], "reason": "in " + missing["split"]})
    return Summary(
        splits={name: [count[name] for count in counts] for name in names},
        kept=len(kept),
        videos=len(table),
        frames=int(frames.sum()),
        seconds=float(np.nansum(seconds)),
        left_out=[
            _left_out("could not be decoded", "failed.csv", failed),
            _left_out("too short", "short.csv", short),
            _left_out("annotated, but without a file", "missing.csv", without_file),
            _left_out("in no split", "unlisted.csv", index.unlisted),
        ],
        classes=classes[:CLASSES],
        more_classes=max(len(classes) - CLASSES, 0),
        untrained=_untrained(classes, names),
        histograms=[
            of_ranges("Duration", "seconds", seconds.astype(float)),
            of_values("Frame rate", "frames a second", kept["fps"].to_numpy(float).round(2).tolist()),
            of_values("Short side", "pixels of the source", sides.astype(int).min(axis=1).tolist()),
            of_values("Codec", "of the source", kept["codec"]),
            of_ranges("Frames kept", "of the top view", frames.astype(float)),
        ],
        trained=len(trained),
        windows=[training_windows(params, level, trained) for level in range(1, params.n_levels + 1)],
        views=[_view(params, level, size) for level in range(1, params.n_levels + 1)],
    )


def render(summary: Summary) -> str:
    """The summary as one HTML file, the same every time, that needs no other file but the tables that it links."""
    made = environment(TEMPLATE)
    made.filters["duration"] = duration
    return made.get_template("summary.html").render(summary=summary)


def log_table(summary: Summary) -> list[str]:
    """The summary in a few lines of text."""
    head = ["kept", "too short", "failed", "missing"]
    first = max(map(len, summary.splits))
    lines = [" " * first + "".join(f"{name:>12}" for name in head)]
    lines += [f"{name:{first}}" + "".join(f"{n:12,}" for n in counts) for name, counts in summary.splits.items()]
    for left in summary.left_out:
        lines += [f"{kind.count:,} {left.title}: {kind.reason}; {kind.examples[0]}" for kind in left.kinds[:5]]
    files, size = sum(view.files for view in summary.views), sum(view.bytes for view in summary.views)
    lines.append(f"{summary.frames:,} frames of the top view, {do_filesizeformat(size)} in {files:,} shard files")
    lines += [f"level {w.level}: {w.windows:,} windows in {w.videos:,} training videos" for w in summary.windows]
    return lines


def training_windows(params: Params, level: int, n_frames: Int64[np.ndarray, " videos"]) -> Windows:
    """The windows of videos with so many frames of the top view, as params has them."""
    window = params.window(level)
    lengths, counts = np.unique(n_frames, return_counts=True)
    found = windows_of_videos(lengths, params.factors, level, window)
    needs = window * math.prod(params.factors[max(level - 2, 0) :])
    return Windows(level, needs, int(counts[found > 0].sum()), int(counts @ found))


def visible(text: str, longest: int = NAME) -> str:
    """A name from a file for people: control characters and what turns the reading direction as escapes, shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def _place(split: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(split) if split in order else len(order), split)


def _left_out(title: str, file: str, table: pd.DataFrame) -> LeftOut:
    """The table's paths grouped by the reasons without their numbers, the most frequent first."""
    pieces = {reason: tuple(_NUMBER.split(reason)) for reason in table["reason"].unique()}
    wordings, files = defaultdict(list), defaultdict(list)
    for reason, key in pieces.items():
        wordings[key].append(reason)
    for path, reason in zip(table["path"], table["reason"], strict=True):
        files[pieces[reason]].append(path)
    ranked = sorted(files, key=lambda key: (-len(files[key]), key))
    kinds = [
        Kind(visible(_common(wordings[key]), TEXT), len(files[key]), [visible(p, TEXT) for p in files[key][:EXAMPLES]])
        for key in ranked[:KINDS]
    ]
    return LeftOut(title, file, len(table), kinds, max(len(ranked) - KINDS, 0))


def _common(reasons: list[str]) -> str:
    """One wording for reasons that differ in numbers alone: those that do not differ stay."""
    places = zip(*map(_NUMBER.findall, reasons), strict=True)
    numbers = iter([found[0] if len(set(found)) == 1 else "…" for found in places])
    return _NUMBER.sub(lambda _: next(numbers), reasons[0])


def _classes(kept: pd.DataFrame, index: Index, splits: list[str]) -> list[ClassCount]:
    found = Counter(zip(kept["class"], kept["split"], strict=True))
    counts = {name: [found[name, split] for split in splits] for name in index.classes}
    most = max((sum(count) for count in counts.values()), default=0)
    ranked = sorted(counts, key=lambda name: (-sum(counts[name]), name))
    return [
        ClassCount(visible(name), counts[name], sum(counts[name]), sum(counts[name]) / max(most, 1)) for name in ranked
    ]


def _untrained(classes: Iterable[ClassCount], splits: list[str]) -> list[str]:
    if "train" not in splits:
        return []
    return [found.name for found in classes if not found.splits[splits.index("train")]]


def _view(params: Params, level: int, size: StoreSize) -> View:
    view, chosen = params.view(level), params.decode
    names = {"none": "none", "blosc": "blosc", "jpeg": f"jpeg, quality {chosen.jpeg_quality}"}
    codec = names[chosen.codec] if chosen.codec != "jpeg" or level == params.n_levels else "none"
    return View(level, f"{view.size}×{view.size}", codec, size.files.get(level, 0), size.bytes.get(level, 0))

"""The page over the decoded videos, reports/data.html: what was kept, what was left out, and what it suffices for."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.data.outcome import LEFT_OUT, NOTED, Outcome, kinds, read_outcome, training_windows, visible
from pipeline.data.store.opening import StoreSize, finished_size
from pipeline.params import Params
from pipeline.paths import Paths, write_atomic
from pipeline.report import plots
from pipeline.report.html import environment

KINDS = 20  # of reasons that are shown; the rest is counted
CLASSES = 1000  # that are shown


def data_page(params: Params, paths: Paths) -> Path:
    """Write the page, the same every time, from the tables beside the pyramid, which it links; returns it.

    Raises UserError where nothing is decoded.
    """
    out = paths.reports / "data.html"
    tables = os.path.relpath(paths.pyramid, paths.reports)
    write_atomic(out, as_html(read_outcome(paths.pyramid), finished_size(paths.pyramid), params, tables))
    return out


def as_html(outcome: Outcome, size: StoreSize, params: Params, tables: str) -> str:
    """The page as one HTML file. tables: the folder of decode's tables, as a link. Names are shortened and visible."""
    kept, levels = outcome.kept, range(1, params.n_levels + 1)
    classes = class_counts(outcome)
    training = list(outcome.splits).index("train") if "train" in outcome.splits else None
    lists = [(LEFT_OUT[name], f"{name}.csv", table) for name, table in outcome.left_out.items()]
    lists.append((NOTED, "videos.parquet", outcome.noted))
    made = environment()
    made.filters["duration"] = duration
    return made.get_template("data.html").render(
        outcome=outcome,
        tables=tables,
        lists=[(title, file, len(table), kinds(table)) for title, file, table in lists],
        shown=KINDS,
        videos=sum(sum(counts[:3]) for counts in outcome.splits.values()),
        frames=int(kept["n_frames"].to_numpy().sum()),
        seconds=float(np.nansum(kept["seconds"].to_numpy())),
        classes=classes[:CLASSES],
        more_classes=max(len(classes) - CLASSES, 0),
        untrained=[name for name, counts in classes if not counts[training]] if training is not None else [],
        histograms=[
            plots.histogram("Duration", "seconds", kept["seconds"]),
            plots.histogram("Frame rate", "frames a second", kept["fps"].to_numpy().round(2)),
            plots.histogram("Short side", "pixels of the source", kept[["width", "height"]].to_numpy().min(axis=1)),
            plots.histogram("Codec", "of the source", kept["codec"]),
            plots.histogram("Frames kept", "of the top view", kept["n_frames"]),
        ],
        windows=[training_windows(params, level, outcome.trained) for level in levels],
        views=[
            (params.view(level), _codec(params, level), size.files.get(level, 0), size.bytes.get(level, 0))
            for level in levels
        ],
    )


def class_counts(outcome: Outcome) -> list[tuple[str, list[int]]]:
    """Names of classes and how many videos of them were kept, by split; the most frequent first."""
    found = Counter(zip(outcome.kept["class"], outcome.kept["split"], strict=True))
    counts = {name: [found[name, split] for split in outcome.splits] for name in outcome.classes}
    return [(visible(name), counts[name]) for name in sorted(counts, key=lambda name: (-sum(counts[name]), name))]


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def _codec(params: Params, level: int) -> str:
    chosen = params.decode
    if chosen.codec != "jpeg":
        return chosen.codec
    return f"jpeg, quality {chosen.jpeg_quality}" if level == params.n_levels else "none"

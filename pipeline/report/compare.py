"""Two runs side by side as a page: which parameters differ, what was measured, and what the samples look like."""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.paths import publish
from pipeline.report.html import TEMPLATE, environment
from pipeline.report.page import explained
from pipeline.report.showcase import MEDIA, Clip

if TYPE_CHECKING:
    from pipeline.runs.store import Found

KINDS = (".mp4", ".png")  # of the files that are shown
NAMES = ("A", "B")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One reproduction. Of children with the same name the last counts.

    files: by a run's id, copies of what it keeps; of each kind the one with the last name is shown.
    """

    parent: "Found"
    children: list["Found"]
    files: Mapping[str, list[Path]]

    def last(self, name: str) -> "Found | None":
        return next((run for run in reversed(self.children) if run.name == name), None)


@dataclass(frozen=True)
class Pair:
    """A value of both runs. best: which of them is the better one, 0 or 1; None where that cannot be said."""

    name: str
    values: tuple[str, str]
    unit: str = ""
    better: str = ""  # higher, lower or nothing
    meaning: str = ""
    best: int | None = None


@dataclass(frozen=True)
class Stage:
    """What one stage of both runs was given otherwise, measured and kept. shown: (left, right) clips or None."""

    name: str
    params: list[Pair]
    metrics: list[Pair]
    shown: list[tuple[Clip | None, Clip | None]]


def compare_page(left: Side, right: Side, out: Path) -> Path:
    """Write the folder `out`, index.html with the media beside it, in place of an older one; returns the page.

    Raises UserError where `out` is another folder with files in it, ValueError where both sides are one run.
    """
    sides = (left, right)
    if left.parent.id == right.parent.id:
        raise ValueError(f"run {left.parent.id} would be compared with itself")
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= {"index.html", MEDIA}):
        raise UserError(f"--out {out}: holds other files, which would be lost; name a new folder")
    work = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    (work / MEDIA).mkdir(parents=True)
    try:
        names = dict.fromkeys(run.name for side in sides for run in side.children)
        made = environment((TEMPLATE / "page.js").read_text())
        text = made.get_template("compare.html").render(
            names=NAMES,
            runs=_runs(left, right),
            params=differing(left.parent.params, right.parent.params),
            samples=_shown((left.parent, right.parent), sides, "samples", work),
            stages=[_stage(name, sides, work) for name in names],
        )
        (work / "index.html").write_text(text, encoding="utf-8")
        publish(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out / "index.html"


def differing(left: Mapping[str, str], right: Mapping[str, str]) -> list[Pair]:
    """The keys whose values differ, in their order; a key that one side lacks is empty there."""
    keys = dict.fromkeys((*left, *right))
    pairs = [Pair(key, (left.get(key, ""), right.get(key, ""))) for key in keys]
    return [pair for pair in pairs if pair.values[0] != pair.values[1]]


def measured(left: Mapping[str, float], right: Mapping[str, float]) -> list[Pair]:
    """The metrics of both sides, by name; where one has no value, nothing stands."""
    pairs = []
    for name in sorted({*left, *right}):
        better, unit, meaning = explained(name.removeprefix("windows_"))
        best = None
        if better and name in left and name in right and left[name] != right[name]:
            best = int((right[name] > left[name]) == (better == "higher"))
        texts = tuple(f"{side[name]:.4g}" if name in side else "" for side in (left, right))
        pairs.append(Pair(name, (texts[0], texts[1]), unit, better, meaning, best))
    return pairs


def _runs(left: Side, right: Side) -> list[Pair]:
    rows = {
        "run": lambda run: run.id,
        "started": lambda run: f"{run.start:%Y-%m-%d %H:%M} UTC",
        "status": lambda run: run.status.lower(),
        "experiment": lambda run: run.tags.get("hvg.experiment", ""),
        "code": lambda run: run.tags.get("mlflow.source.git.commit", "")[:12],
    }
    pairs = [Pair(name, (text(left.parent), text(right.parent))) for name, text in rows.items()]
    return [pair for pair in pairs if any(pair.values)]


def _stage(name: str, sides: tuple[Side, Side], work: Path) -> Stage:
    first, second = (side.last(name) for side in sides)
    params = differing(first.params, second.params) if first and second else []
    params = [pair for pair in params if not pair.name.endswith("protocol.samples")]  # digests that always differ
    metrics = measured(first.metrics if first else {}, second.metrics if second else {})
    return Stage(name, params, metrics, _shown((first, second), sides, name, work))


def _shown(
    runs: tuple["Found | None", "Found | None"], sides: tuple[Side, Side], of: str, work: Path
) -> list[tuple[Clip | None, Clip | None]]:
    """The last file of each kind of both runs, copied beside the page."""
    rows = []
    for kind in KINDS:
        clips = [
            _clip(_last(side.files.get(run.id, []) if run else [], kind), of, name, work)
            for run, side, name in zip(runs, sides, NAMES, strict=True)
        ]
        if any(clips):
            rows.append((clips[0], clips[1]))
    return rows


def _last(files: list[Path], kind: str) -> Path | None:
    return max((path for path in files if path.suffix == kind), key=lambda path: path.name, default=None)


def _clip(file: Path | None, of: str, side: str, work: Path) -> Clip | None:
    if file is None:
        return None
    number = sum(1 for _ in (work / MEDIA).iterdir())
    name = f"{side.lower()}-{number}{file.suffix}"
    shutil.copyfile(file, work / MEDIA / name)
    return Clip(f"{MEDIA}/{name}", "", side, file.stem, f"Run {side}, {of}: {file.stem}")

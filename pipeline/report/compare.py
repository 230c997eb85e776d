"""Two runs side by side as a page: which parameters differ, what was measured, and what the samples look like."""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import publish
from pipeline.report.html import TEMPLATE, environment
from pipeline.report.page import Metric, explained
from pipeline.report.showcase import MEDIA, Clip
from pipeline.runs.store import Store, TrackedRun

KINDS = (".mp4", ".png")  # of the files that are shown
NAMES = ("A", "B")


def compare_page(parents: tuple[TrackedRun, TrackedRun], runs: Sequence[TrackedRun], store: Store, out: Path) -> Path:
    """Write the folder `out`, index.html with the media beside it, in place of an older one; returns the page.

    Args:
        parents: two reproductions.
        runs: with those within them, oldest first; of those with the same name the last counts.
        store: has the files that they keep; of each kind the one with the last name is shown.

    Raises UserError where both are one, or `out` is another folder with files in it.
    """
    if parents[0].id == parents[1].id:
        raise UserError(f"both runs belong to one reproduction, {parents[0].id}; name two")
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} in (set(), {"index.html", MEDIA})):
        raise UserError(f"--out {out}: holds other files, which would be lost; name a new folder")
    within = [{run.name: run for run in runs if run.parent == parent.id} for parent in parents]
    work = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    (work / MEDIA).mkdir(parents=True)
    try:
        stages = []
        for name in dict.fromkeys([*within[0], *within[1]]):
            left, right = pair = within[0].get(name), within[1].get(name)
            settings = differing(left.params, right.params) if left and right else []
            stages.append(
                {
                    "name": name,
                    # Digests differ always.
                    "params": [one for one in settings if not one.name.endswith("protocol.samples")],
                    "metrics": measured(left.metrics if left else {}, right.metrics if right else {}),
                    "shown": _shown(pair, name, store, work),
                }
            )
        text = environment((TEMPLATE / "page.js").read_text()).get_template("compare.html").render(
            names=NAMES,
            runs=_runs(*parents),
            params=differing(parents[0].params, parents[1].params),
            samples=_shown(parents, "samples", store, work),
            stages=stages,
        )  # fmt: skip
        (work / "index.html").write_text(text, encoding="utf-8")
        publish(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out / "index.html"


def differing(left: Mapping[str, str], right: Mapping[str, str]) -> list[Metric]:
    """The keys whose values differ, in their order; a key that one side lacks is empty there."""
    keys = dict.fromkeys((*left, *right))
    pairs = [Metric(key, (left.get(key, ""), right.get(key, ""))) for key in keys]
    return [pair for pair in pairs if pair.values[0] != pair.values[1]]


def measured(left: Mapping[str, float], right: Mapping[str, float]) -> list[Metric]:
    """The metrics of both sides, by name; where one has no value, nothing stands."""
    pairs = []
    for name in sorted({*left, *right}):
        better, unit, meaning = explained(name.removeprefix("cut_").removeprefix("windows_"))
        best = None
        if better and name in left and name in right and left[name] != right[name]:
            best = int((right[name] > left[name]) == (better == "higher"))
        values = tuple(f"{side[name]:.4g}" if name in side else "" for side in (left, right))
        pairs.append(Metric(name, values, unit, better, meaning, best))
    return pairs


def _runs(left: TrackedRun, right: TrackedRun) -> list[Metric]:
    rows = {
        "run": lambda run: run.id,
        "started": lambda run: f"{run.start:%Y-%m-%d %H:%M} UTC",
        "status": lambda run: run.status.lower(),
        "experiment": lambda run: run.tags.get("hvg.experiment", ""),
        "code": lambda run: run.tags.get("mlflow.source.git.commit", "")[:12],
    }
    pairs = [Metric(name, (text(left), text(right))) for name, text in rows.items()]
    return [pair for pair in pairs if any(pair.values)]


def _shown(
    runs: tuple[TrackedRun | None, TrackedRun | None], of: str, store: Store, work: Path
) -> list[list[Clip | None]]:
    """The last file of each kind that both runs keep, fetched beside the page."""
    kept = [sorted(store.files(run.id)) if run else [] for run in runs]
    rows = []
    for kind in KINDS:
        clips: list[Clip | None] = [None, None]
        for side, (run, files) in enumerate(zip(runs, kept, strict=True)):
            last = next((file for file in reversed(files) if file.endswith(kind)), None)
            if run is not None and last is not None:
                file = store.fetch(run.id, last, work / MEDIA / run.id)
                label = f"Run {NAMES[side]}, {of}: {file.stem}"
                clips[side] = Clip(file.relative_to(work).as_posix(), "", NAMES[side], file.stem, label)
        if any(clips):
            rows.append(clips)
    return rows

"""From a finished reproduction to its page: reports/index.html and, beside it, reports/media and reports/data.html."""

import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from pipeline.errors import UserError, reading
from pipeline.params import Params
from pipeline.paths import Paths, publish, write_atomic
from pipeline.report import facts, plots
from pipeline.report.data import data_page
from pipeline.report.html import TEMPLATE, environment
from pipeline.report.page import class_table, measurements, without_weights
from pipeline.report.showcase import MEDIA, showcase
from pipeline.runs.store import TrackedRun

AGAIN = "`dvc repro` makes it again"
Made = TypeVar("Made")


def build(params: Params, paths: Paths, runs: Sequence[TrackedRun], store: str = "") -> Path:
    """Write the page, its media and data.html; returns the page.

    Args:
        runs: that made what the page shows.
        store: the URI of the MLflow that has them, as people may see it.

    Raises UserError where an earlier stage has not made what the page shows. per_class.csv, counts.csv and motion.csv
    may be missing or empty: not every data set has classes, not every video motion.
    """
    levels = range(1, params.n_levels + 1)
    metrics, psd = paths.reports / "metrics.json", paths.reports / "psd.csv"
    histories = {level: paths.artifact(level) / "history.csv" for level in levels}
    for path in (metrics, psd, *histories.values()):
        if not path.exists():
            raise UserError(f"{path}: missing; `dvc repro` makes it")
    classes, _ = facts.level(paths.artifact(params.n_levels))
    with reading(metrics, AGAIN):
        evaluation: dict[str, Any] = json.loads(metrics.read_bytes())
        measured, protocol = measurements(params, classes, evaluation), evaluation["protocol"]
        split = str(protocol["real_split"])
    drawn = {level: _made_of(path, partial(plots.curves, level=level)) for level, path in histories.items()}
    tables = {
        "by_class": _made_of(
            paths.reports / "per_class.csv", lambda table: class_table(params, classes, table, protocol)
        ),
        "counts": _made_of(paths.reports / "counts.csv", plots.by_count),
        "spectra": _made_of(psd, plots.spectra),
        "motion": _made_of(paths.reports / "motion.csv", plots.motion),
    }
    media = paths.reports / f".{MEDIA}.{uuid.uuid4().hex}"
    media.mkdir(parents=True)
    try:
        show = showcase(params, paths, split, media)
        publish(media, paths.reports / MEDIA)
    finally:
        shutil.rmtree(media, ignore_errors=True)
    data_page(params, paths)
    template = environment((TEMPLATE / "page.js").read_text()).get_template("page.html")
    text = template.render(
        levels=[f"{view.frames} frames of {view.size}×{view.size}" for view in map(params.view, levels)],
        classes=classes,
        sigma=params.sigma.figures,
        show=show,
        measured=measured,
        without=without_weights(measured),
        **tables,
        curves={f"Level {level}": plots for level, plots in drawn.items()},
        splits=facts.splits(paths.pyramid),
        environment=facts.environment(paths.root),
        runs=[(run, facts.run_link(store, run.id)) for run in runs],
        opened_by=facts.opened_by(store, paths.root),
        params=paths.params.read_text(),
    )
    out = paths.reports / "index.html"
    write_atomic(out, text)
    return out


def _made_of(path: Path, make: Callable[[pd.DataFrame], Made]) -> Made:
    """What `make` draws of a table, an empty one where there is none."""
    if not path.exists():
        return make(pd.DataFrame())
    with reading(path, AGAIN):
        # A class may be called 001 or nan.
        return make(pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"class": str}))

"""From a finished reproduction to its page: reports/index.html and, beside it, reports/media and reports/data.html."""

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths, publish, write_atomic
from pipeline.report import facts, plots
from pipeline.report.data import data_page
from pipeline.report.html import TEMPLATE, environment
from pipeline.report.page import class_table, measurements, without_weights
from pipeline.report.showcase import MEDIA, showcase
from pipeline.runs.store import TrackedRun


def build(params: Params, paths: Paths, runs: Sequence[TrackedRun], store: str = "") -> Path:
    """Write the page, its media and data.html; returns the page.

    Args:
        runs: that made what the page shows.
        store: the URI of the MLflow that has them, as people may see it.

    Raises UserError where an earlier stage has not made what the page shows. per_class.csv, counts.csv and motion.csv
    may be missing or empty: not every data set has classes, not every video motion.
    """
    levels = range(1, params.n_levels + 1)
    config = paths.artifact(params.n_levels) / "config.json"
    metrics, psd = paths.reports / "metrics.json", paths.reports / "psd.csv"
    histories = {level: paths.artifact(level) / "history.csv" for level in levels}
    for path in (metrics, psd, config, *histories.values()):
        if not path.is_file():
            raise UserError(f"{path}: missing; `dvc repro` makes it")
    evaluation: dict[str, Any] = json.loads(metrics.read_text())
    classes: int = json.loads(config.read_text())["config"]["classes"]
    media = paths.reports / f".{MEDIA}.{uuid.uuid4().hex}"
    media.mkdir(parents=True)
    try:
        show = showcase(params, paths, evaluation["protocol"]["real_split"], media)
        publish(media, paths.reports / MEDIA)
    finally:
        shutil.rmtree(media, ignore_errors=True)
    data_page(params, paths)
    measured = measurements(params, classes, evaluation)
    template = environment((TEMPLATE / "page.js").read_text()).get_template("page.html")
    text = template.render(
        levels=[f"{view.frames} frames of {view.size}×{view.size}" for view in map(params.view, levels)],
        classes=classes,
        sigma=params.sigma.figures,
        show=show,
        measured=measured,
        without=without_weights(measured),
        by_class=class_table(params, classes, _table(paths.reports / "per_class.csv"), evaluation["protocol"]),
        counts=plots.by_count(_table(paths.reports / "counts.csv")),
        spectra=plots.spectra(pd.read_csv(psd)),
        motion=plots.motion(_table(paths.reports / "motion.csv")),
        curves={f"Level {level}": plots.curves(pd.read_csv(path), level) for level, path in histories.items()},
        splits=facts.splits(paths.pyramid),
        environment=facts.environment(paths.root),
        runs=[(run, facts.run_link(store, run.id)) for run in runs],
        opened_by=facts.opened_by(store, paths.root),
        params=paths.params.read_text(),
    )
    out = paths.reports / "index.html"
    write_atomic(out, text)
    return out


def _table(path: Path) -> pd.DataFrame:
    # A class may be called 001 or nan.
    return pd.read_csv(path, keep_default_na=False, dtype={"class": str}) if path.is_file() else pd.DataFrame()

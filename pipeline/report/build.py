"""From a finished reproduction to its page: reports/index.html and, beside it, reports/media and reports/data.html."""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths, publish, write_atomic
from pipeline.report import facts, plots
from pipeline.report.data import data_page
from pipeline.report.page import Page, class_table, measurements, render
from pipeline.report.showcase import MEDIA, showcase


def build(params: Params, paths: Paths, runs: list[facts.TrackedRun], opened_by: str = "") -> Path:
    """Write the page, its media and data.html; returns the page.

    runs: MLflow's. opened_by: the command that shows them.

    Raises UserError where an earlier stage has not made what the page shows. per_class.csv, counts.csv and motion.csv
    may be missing or empty: not every data set has classes, not every video motion.
    """
    config = paths.artifact(params.n_levels) / "config.json"
    metrics, psd = paths.reports / "metrics.json", paths.reports / "psd.csv"
    histories = {level: paths.artifact(level) / "history.csv" for level in range(1, params.n_levels + 1)}
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
    page = Page(
        levels=facts.levels(params),
        classes=classes,
        sigma=params.sigma.figures,
        show=show,
        measured=measurements(params, classes, evaluation),
        by_class=class_table(params, classes, _table(paths.reports / "per_class.csv"), evaluation["protocol"]),
        counts=plots.by_count(_table(paths.reports / "counts.csv")),
        spectra=plots.spectra(pd.read_csv(psd)),
        motion=plots.motion(_table(paths.reports / "motion.csv")),
        curves={f"Level {level}": plots.curves(pd.read_csv(path), level) for level, path in histories.items()},
        decoded=facts.decoded(paths.pyramid),
        environment=facts.environment(paths.root),
        runs=runs,
        opened_by=opened_by,
        params=paths.params.read_text(),
    )
    out = paths.reports / "index.html"
    write_atomic(out, render(page))
    return out


def _table(path: Path) -> pd.DataFrame:
    # A class may be called 001 or nan.
    return pd.read_csv(path, keep_default_na=False, dtype={"class": str}) if path.is_file() else pd.DataFrame()

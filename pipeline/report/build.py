"""From a finished reproduction to its page: reports/index.html and, beside it, reports/media and reports/data.html."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from pipeline.errors import UserError, reading
from pipeline.params import Params
from pipeline.paths import Paths, publish, write_atomic
from pipeline.report import facts, plots
from pipeline.report.data import data_page
from pipeline.report.html import TEMPLATE, environment
from pipeline.report.page import class_table, measurements, of_random_weights
from pipeline.report.showcase import MEDIA, showcase
from pipeline.runs.store import TrackedRun

AGAIN = "`dvc repro` makes it again"
SIDES = ("real_mean", "real_deviation", "generated_mean", "generated_deviation")
_evaluation = TypeAdapter(dict[str, dict[str, Any]])


def build(params: Params, paths: Paths, runs: Sequence[TrackedRun], store: str = "") -> Path:
    """Write the page, its media and data.html; returns the page.

    Args:
        runs: that made what the page shows.
        store: the URI of the MLflow that has them, as people may see it.

    Raises UserError where an earlier stage has not made what the page shows. per_class.csv, counts.csv and motion.csv
    may be missing or empty: not every data set has classes, not every video motion.
    """
    levels = range(1, params.n_levels + 1)
    metrics, protocols, psd = (paths.reports / name for name in ("metrics.json", "protocol.json", "psd.csv"))
    histories = {level: paths.artifact(level) / "history.csv" for level in levels}
    for path in (metrics, protocols, psd, *histories.values()):
        if not path.exists():
            raise UserError(f"{path}: missing; `dvc repro` makes it")
    classes, _ = facts.level(paths.artifact(params.n_levels))
    with reading(metrics, AGAIN):
        evaluation = _evaluation.validate_json(metrics.read_bytes())
    with reading(protocols, AGAIN):
        evaluation |= _evaluation.validate_json(protocols.read_bytes())
        protocol = evaluation["protocol"]
        split = str(protocol["real_split"])
    measured = measurements(params, classes, evaluation)
    drawn = {level: plots.curves(_table(path, "step"), level) for level, path in histories.items()}
    by_class = _table(paths.reports / "per_class.csv", "real", "generated")
    tables = {
        "by_class": class_table(params, classes, by_class, protocol),
        "counts": plots.by_count(_table(paths.reports / "counts.csv", "n", "mean", "low", "high")),
        "spectra": plots.spectra(_table(psd, "frame", "cycles", *SIDES)),
        "motion": plots.motion(_table(paths.reports / "motion.csv", "step", *SIDES)),
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
        random=of_random_weights(measured),
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


def _table(path: Path, *columns: str) -> pd.DataFrame:
    """A table of numbers and names, with a number in every row of these columns; an empty one where there is none."""
    if not path.exists():
        return pd.DataFrame()
    with reading(path, AGAIN):
        # A class may be called 001 or nan.
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"class": str})
        numbers = table.drop(columns=["class", "metric"], errors="ignore").astype(float)
        if numbers[list(columns)].isna().to_numpy().any():
            raise ValueError(f"a row lacks one of {', '.join(columns)}")
        return table

"""From a finished reproduction to its page: reports/index.html and, beside it, reports/media."""

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
from pipeline.report.page import Page, metric_rows, protocol_rows, render
from pipeline.report.showcase import MEDIA, showcase


def build(params: Params, paths: Paths, runs: list[dict[str, str]]) -> Path:
    """Write the page and its media; returns the page. `runs` are the tracker's, alike in their keys.

    Raises UserError where an earlier stage has not made what the page shows.
    """
    config = paths.artifact(params.n_levels) / "config.json"
    needed = [paths.reports / "metrics.json", paths.reports / "psd.csv", config]
    histories = {level: paths.artifact(level) / "history.csv" for level in range(1, params.n_levels + 1)}
    for path in (*needed, *histories.values()):
        if not path.is_file():
            raise UserError(f"{path}: missing; `dvc repro` makes it")
    evaluation: dict[str, Any] = json.loads(needed[0].read_text())
    media = paths.reports / f".{MEDIA}.{uuid.uuid4().hex}"
    media.mkdir(parents=True)
    try:
        show = showcase(params, paths, evaluation["protocol"]["real_split"], media)
        publish(media, paths.reports / MEDIA)
    finally:
        shutil.rmtree(media, ignore_errors=True)
    page = Page(
        levels=facts.levels(params),
        classes=json.loads(config.read_text())["config"]["classes"],
        sigma=params.sigma.figures,
        show=show,
        metrics=metric_rows(evaluation["metrics"]),
        protocol=protocol_rows(evaluation["protocol"]),
        curves={f"Level {level}": plots.curves(pd.read_csv(path)) for level, path in histories.items()},
        spectra=plots.spectra(pd.read_csv(needed[1])),
        decoded=facts.decoded(paths.pyramid),
        environment=facts.environment(paths.root),
        runs=runs,
        params=paths.params.read_text(),
    )
    out = paths.reports / "index.html"
    write_atomic(out, render(page))
    return out

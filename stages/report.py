"""Make the page of a reproduction: reports/index.html, its media in reports/media.

hvg run report
python -m stages.report
"""

import argparse
import json
import logging
import os
from collections.abc import Sequence

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.params import Params, fingerprint, load_params
from pipeline.paths import Paths
from pipeline.report.build import build
from pipeline.report.facts import TrackedRun, opened_by, run_link
from pipeline.report.showcase import MEDIA
from pipeline.stage import run_stage

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--workers: report runs in one process; leave it out")
    paths = Paths()
    params = load_params(paths.params)
    try:
        runs = _runs(params, paths)
    except tracking.Away as away:
        log.warning("the page names no runs: %s", away)
        runs = []
    page = build(params, paths, runs, opened_by(tracking.store_uri(paths), paths.root))
    if runs:  # the reproduction's first
        tracking.keep(runs[0].id, page.parent / MEDIA / "grid-samples.mp4", paths)
    log.info("the page: %s", page)


def _runs(params: Params, paths: Paths) -> list[TrackedRun]:
    """The runs behind what the page shows: this reproduction's, and of a level not trained again an earlier's.

    A level's run is the newest one made from what the level's artifact was made from.
    """
    try:
        found = tracking.find_runs(paths)
    except tracking.Away as error:
        log.warning("%s: the page shows no runs", error)
        return []
    chosen = [run for run in found if run.parent is None and run.tags.get("hvg.params") == fingerprint(params)][-1:]
    for level in range(1, params.n_levels + 1):
        inputs = json.loads((paths.artifact(level) / "config.json").read_text()).get("inputs")
        chosen += [run for run in found if inputs and run.tags.get("hvg.inputs") == inputs][-1:]
    chosen += [run for run in found if run.name == "evaluate" and run.parent == chosen[0].id][-1:] if chosen else []
    return [
        TrackedRun(
            name=run.name,
            status=run.status.lower(),
            started=f"{run.start:%Y-%m-%d %H:%M} UTC",
            id=run.id,
            link=run_link(tracking.store_uri(paths), run.id),
        )
        for run in chosen
    ]


if __name__ == "__main__":
    run_stage(main)

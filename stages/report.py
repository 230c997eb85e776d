"""Make the pages of a reproduction: reports/index.html, its media in reports/media, and reports/data.html.

hvg run report
python -m stages.report
"""

import argparse
import logging
from collections.abc import Sequence

from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.report.build import build
from pipeline.report.facts import level as level_facts
from pipeline.report.showcase import MEDIA
from pipeline.runs.store import Away, Store, TrackedRun
from pipeline.runs.tracking import of_this_checkout
from pipeline.system.stage import run_stage
from pipeline.system.values import fingerprint

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    paths = Paths()
    params = load_params(paths.params)
    store = Store(paths)
    try:
        runs = store.runs()
    except Away as away:
        log.warning("the page names no runs: %s", away)
        runs = []
    ours = _reproduction(runs, params, paths)
    page = build(params, paths, _runs(runs, ours, params, paths), store.shown)
    if ours is not None:
        try:
            store.keep(ours.id, page.parent / MEDIA / "grid-samples.mp4")
        except Away as away:
            log.warning("the reproduction's run has no samples: %s", away)
    log.info("the page: %s", page)


def _reproduction(runs: Sequence[TrackedRun], params: Params, paths: Paths) -> TrackedRun | None:
    """This checkout's newest with these parameters."""
    same = fingerprint(params)
    own = [run for run in runs if run.parent is None and of_this_checkout(run, paths)]
    return next((run for run in reversed(own) if run.tags.get("hvg.params") == same), None)


def _runs(runs: Sequence[TrackedRun], ours: TrackedRun | None, params: Params, paths: Paths) -> list[TrackedRun]:
    """The runs behind what the page shows: this reproduction's, and of a level not trained again an earlier's.

    A level's run is the newest one made from what the level's artifact was made from: this checkout's, or where it has
    none (the artifact may come from DVC's remote) any.
    """
    own = [run for run in runs if of_this_checkout(run, paths)]
    chosen = [] if ours is None else [ours]
    for level in range(1, params.n_levels + 1):
        _, inputs = level_facts(paths.artifact(level))
        chosen += [run for run in (*runs, *own) if inputs and run.tags.get("hvg.inputs") == inputs][-1:]
    if ours is not None:
        chosen += [run for run in runs if run.name == "evaluate" and run.parent == ours.id][-1:]
    return chosen


if __name__ == "__main__":
    run_stage(main)

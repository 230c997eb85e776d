"""Make the page of a reproduction: reports/index.html, its media in reports/media.

hvg run report
python -m stages.report
"""

import argparse
import logging
import os
from collections.abc import Sequence

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.params import Params, fingerprint, load_params
from pipeline.paths import Paths
from pipeline.report.build import build
from pipeline.stage import run_stage

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--workers: report runs in one process; leave it out")
    paths = Paths()
    params = load_params(paths.params)
    log.info("the page: %s", build(params, paths, _runs(params, paths)))


def _runs(params: Params, paths: Paths) -> list[dict[str, str]]:
    """The newest run of each stage that belongs to the last reproduction with these parameters."""
    found = tracking.find_runs(paths)
    parents = [run for run in found if run.parent is None and run.tags.get("hvg.params") == fingerprint(params)]
    if not parents:
        return []
    newest = {run.name: run for run in found if run.parent == parents[-1].id}  # oldest first: the last one stays
    return [
        {"run": run.name, "status": run.status.lower(), "started": f"{run.start:%Y-%m-%d %H:%M} UTC", "id": run.id}
        for run in (parents[-1], *newest.values())
    ]


if __name__ == "__main__":
    run_stage(main)

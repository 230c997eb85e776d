"""Measure the top level's samples against real clips, and every level's against its condition.

    hvg run evaluate
    python -m stages.evaluate

Writes reports/metrics.json (metrics and the protocol they were measured by) and reports/psd.csv (App. D).
"""

import argparse
import json
import logging
import os
from collections.abc import Sequence

from pipeline import tracking
from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.evaluation import evaluate
from pipeline.params import fingerprint, load_params
from pipeline.paths import Paths, write_atomic
from pipeline.stage import run_stage

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--workers: evaluate runs in one process; leave it out")
    paths = Paths()
    params = load_params(paths.params)
    levels = range(1, params.n_levels + 1)
    samples = [ViewReader(paths.samples(level), level, in_memory=0).digest for level in levels]
    pyramid = ViewReader(paths.pyramid, params.n_levels, in_memory=0).digest
    with tracking.run(params, "evaluate", inputs=fingerprint(params, samples, pyramid), paths=paths) as run:
        found = evaluate(params, paths)
        run.log(found.metrics)
        run.params({"protocol": found.protocol.as_dict()})
    for name, value in found.metrics.items():
        log.info("%s %.4g", name, value)
    content = {"metrics": found.metrics, "protocol": found.protocol.as_dict()}
    write_atomic(paths.reports / "psd.csv", found.psd.to_csv(index=False))
    write_atomic(paths.reports / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    run_stage(main)

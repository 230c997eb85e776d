"""Measure the top level's samples against real clips, and every level's against its condition.

    hvg run evaluate
    torchrun --nproc-per-node 8 -m stages.evaluate      by hand, on 8 GPUs
    python -m stages.evaluate

Writes reports/metrics.json (metrics of whole videos and of windows, and the protocols they were measured by) and the
tables reports/{psd,per_class,counts,motion}.csv. Statistics of real clips are kept in .hvg/cache/metrics.
"""

import argparse
import contextlib
import json
import logging
from collections.abc import Sequence

from pipeline.data.store.reader import ViewReader
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.params import fingerprint, load_params
from pipeline.paths import Paths, write_atomic
from pipeline.runs import tracking
from pipeline.system.stage import run_stage
from pipeline.workers import workers

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    paths = Paths()
    params = load_params(paths.params)
    levels = range(1, params.n_levels + 1)
    samples = [ViewReader(paths.samples(level), level, in_memory=0).digest for level in levels]
    pyramid = ViewReader(paths.pyramid, params.n_levels, in_memory=0).digest
    with workers() as us:
        inputs = fingerprint(params, samples, pyramid)
        tracked = tracking.run(params, "evaluate", inputs=inputs, paths=paths) if us.rank == 0 else None
        with tracked or contextlib.nullcontext() as run:
            found = evaluate(params, paths, us)
            if run:
                run.log(found.metrics | {f"windows_{name}": value for name, value in (found.windows or {}).items()})
                protocols = {"protocol": found.protocol, "windows_protocol": found.windows_protocol}
                run.params({name: measured.as_dict() for name, measured in protocols.items() if measured is not None})
        if us.rank == 0:
            _write(found, paths)


def _write(found: Evaluation, paths: Paths) -> None:
    content = {"metrics": found.metrics, "protocol": found.protocol.as_dict()}
    if found.windows is not None and found.windows_protocol is not None:
        content |= {"windows": found.windows, "windows_protocol": found.windows_protocol.as_dict()}
    for part, of in (("metrics", "protocol"), ("windows", "windows_protocol")):
        for name, value in content.get(part, {}).items():
            log.info("%s %s %.4g", part, name, value)
        if of in content:
            log.info("%s measured on %s", part, "; ".join(f"{name}: {value}" for name, value in content[of].items()))
    for name, table in found.tables.items():
        write_atomic(paths.reports / f"{name}.csv", table.to_csv(index=False))
    write_atomic(paths.reports / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    run_stage(main)

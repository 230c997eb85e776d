"""Measure the top level's samples against real clips, and every level's against its condition.

    hvg run evaluate
    torchrun --nproc-per-node 8 -m stages.evaluate      by hand, on 8 GPUs
    python -m stages.evaluate

Writes reports/metrics.json (of whole videos and of windows), protocol.json (what they were measured on) and the
tables reports/{psd,per_class,counts,motion}.csv. Statistics of real clips are kept in .hvg/cache/metrics.
"""

import argparse
import contextlib
import json
import logging
from collections.abc import Sequence

from pipeline.data.store.reader import ViewReader
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.params import load_params
from pipeline.paths import Paths, write_atomic
from pipeline.runs import tracking
from pipeline.system.stage import run_stage
from pipeline.system.values import fingerprint
from pipeline.workers import join_workers

log = logging.getLogger(__name__)
WINDOWS = ("windows", "cut_windows")  # protocols beside whole videos


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    paths = Paths()
    params = load_params(paths.params)
    levels = range(1, params.n_levels + 1)
    samples = [ViewReader(paths.samples(level) / "videos", level, in_memory=0).digest for level in levels]
    if params.measured_window:
        samples.append(ViewReader(paths.samples(params.n_levels) / "windows", params.n_levels, in_memory=0).digest)
    pyramid = ViewReader(paths.pyramid, params.n_levels, in_memory=0).digest
    with join_workers() as workers:
        inputs = fingerprint(params, samples, pyramid)
        tracked = tracking.run(params, "evaluate", inputs=inputs, paths=paths) if workers.rank == 0 else None
        with tracked or contextlib.nullcontext() as run:
            evaluation = evaluate(params, paths, workers)
            numbers = evaluation.numbers
            if run:
                windows = {f"{part}_{name}": value for part in WINDOWS for name, value in numbers.get(part, {}).items()}
                run.log(numbers["metrics"] | windows)
                run.params({part: setting for part, setting in numbers.items() if part.endswith("protocol")})
        if workers.rank == 0:
            _write(evaluation, paths)


def _write(evaluation: Evaluation, paths: Paths) -> None:
    for part, of in (("metrics", "protocol"), *((part, f"{part}_protocol") for part in WINDOWS)):
        if part in evaluation.numbers:
            for name, value in evaluation.numbers[part].items():
                log.info("%s %s %.4g", part, name, value)
            setting = "; ".join(f"{name}: {value}" for name, value in evaluation.numbers[of].items())
            log.info("%s measured on %s", part, setting)
    for name, table in evaluation.tables.items():
        write_atomic(paths.reports / f"{name}.csv", table.to_csv(index=False))
    protocols = {part: of for part, of in evaluation.numbers.items() if part.endswith("protocol")}
    numbers = {part: of for part, of in evaluation.numbers.items() if part not in protocols}
    for name, parts in (("protocol", protocols), ("metrics", numbers)):
        write_atomic(paths.reports / f"{name}.json", json.dumps(parts, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    run_stage(main)

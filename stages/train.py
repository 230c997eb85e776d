"""Train one level and publish it as artifacts/level-l (pipeline.generation.artifact).

    hvg run train --level 2                                    as a stage: retries, logs, resuming
    torchrun --nproc-per-node 8 -m stages.train --level 2      by hand, on 8 GPUs
    python -m stages.train --level 2                           by hand, one worker

Interrupted, the same command goes on from the last checkpoint in .hvg/work, as long as what training depends on is the
same: parameters, data and code.
"""

import argparse
import contextlib
import functools
import shutil
from collections.abc import Sequence

from pipeline.data.store.reader import ViewReader
from pipeline.generation import artifact
from pipeline.params import load_params
from pipeline.paths import Paths, alone, publish
from pipeline.runs import tracking
from pipeline.system.stage import run_stage
from pipeline.system.values import fingerprint
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import inputs_of, record
from pipeline.training.loop import Training
from pipeline.training.measure import window_measure
from pipeline.training.step import Networks
from pipeline.training.termination import termination
from pipeline.workers import join_workers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, required=True)
    level = parser.parse_args(argv).level
    params, paths = load_params(), Paths()
    training = params.of_level(level).training
    with termination() as stop, join_workers() as workers:
        real = ViewReader(paths.pyramid, level, "train")
        config = params.level(level, len(real.classes))
        batches = Batches(
            config,
            seed=params.seed,
            real=real,
            real_condition=ViewReader(paths.pyramid, level - 1, "train") if level > 1 else None,
            generated=ViewReader(paths.conditions(level - 1), level - 1, "train") if level > 1 else None,
            factors=params.factors,
            window=params.window(level),
            mirror=params.data.mirror,
        )
        networks = Networks(config, training, seed=params.seed, workers=workers)
        measure = window_measure(batches, params, paths, workers) if training.measure else None
        made_from = inputs_of(batches, params, measure)
        inputs = fingerprint(made_from)
        work = paths.work(f"train-level-{level}", inputs, paths.artifact(level))
        name = f"train level {level}"
        tracked = tracking.run(params, name, inputs=inputs, work=work, machine=True) if workers.rank == 0 else None
        with alone(work, workers.rank), tracked or contextlib.nullcontext() as run:
            if workers.rank == 0:
                record(work, made_from)
            shown = {"on_log": run.log, "on_picture": functools.partial(run.keep, folder="pictures")} if run else {}
            trained = Training(networks, batches, training, workers, work, stop, measure=measure, **shown)
            if run and trained.start:
                run.params({"start": trained.start})
            trained.run()
            if workers.rank == 0:
                about = {"iterations": trained.iteration, "inputs": inputs, "start": trained.start}
                about["classes"] = list(real.classes)
                shutil.rmtree(work / "artifact", ignore_errors=True)  # of a run that was killed while it wrote
                written = trained.generator, networks.discriminators, trained.history, about
                artifact.write(work / "artifact", *written)
                publish(work / "artifact", paths.artifact(level))


if __name__ == "__main__":
    run_stage(main)

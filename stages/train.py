"""Train one level and publish it: artifacts/level-l/{generator.safetensors, config.json, history.csv}.

    hvg run train --level 2                                    as a stage: retries, logs, resuming
    torchrun --nproc-per-node 8 -m stages.train --level 2      by hand, on 8 GPUs
    python -m stages.train --level 2                           by hand, one worker

Interrupted, the same command goes on from the last checkpoint in .hvg/work, as long as parameters, data and code are
the same.
"""

import argparse
import contextlib
from collections.abc import Sequence

from pipeline import tracking
from pipeline.data.windows import ViewReader
from pipeline.params import fingerprint, load_params
from pipeline.paths import Paths, publish
from pipeline.stage import run_stage
from pipeline.training import artifact
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import code_hash
from pipeline.training.distributed import workers
from pipeline.training.generation import SPLITS, sigma_of, statistics
from pipeline.training.loop import train
from pipeline.training.step import Networks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, required=True)
    level = parser.parse_args(argv).level
    params, paths = load_params(), Paths()
    chosen = params.levels[str(level)]
    with workers() as us:
        real = ViewReader(paths.pyramid, level, "train")
        pair = ViewReader(paths.pyramid, level - 1, "train") if level > 1 else None
        below = {s: ViewReader(paths.samples(level - 1), level - 1, s) for s in SPLITS} if level > 1 else {}
        config = params.level(level, len(real.classes))
        made_from = [config, chosen.training, chosen.generation.recalibration, params.factors, params.sigma]
        digests = [real.digest, *(reader.digest for reader in below.values())]
        inputs = fingerprint(*made_from, params.seed, digests, code_hash())
        work = paths.work(f"train-level-{level}", inputs)

        t, generated = chosen.training, below.get("samples")
        batches = Batches(
            config,
            seed=params.seed,
            real=real,
            real_condition=pair,
            generated=generated,
            factors=params.factors,
            window=params.window(level),
        )
        networks = Networks(
            config,
            seed=params.seed,
            workers=us,
            lr_generator=t.lr_generator,
            lr_discriminator=t.lr_discriminator,
            betas=t.betas,
        )
        first = (
            tracking.run(params, f"train level {level}", inputs=inputs) if us.rank == 0 else contextlib.nullcontext()
        )
        with first as run:
            history = train(networks, batches, t, us, work, run.log if run else None)
        calibrated = {
            sigma_of(split, params.sigma): statistics(
                networks.generator,
                split=split,
                sigma=sigma_of(split, params.sigma),
                passes=chosen.generation.recalibration,
                batch=t.batch,
                seed=params.seed,
                labels=real.labels,
                condition=below.get(split),
                workers=us,
            )
            for split in SPLITS
        }
        if us.rank == 0:
            about = {"classes": list(real.classes), "iterations": t.iterations, "inputs": inputs}
            artifact.write(work / "artifact", networks.generator, calibrated, history, about)
            publish(work / "artifact", paths.artifact(level))


if __name__ == "__main__":
    run_stage(main)

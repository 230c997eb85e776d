"""Generate a level's samples, data/samples/level-l: for the metrics and as conditions of the level above, and figures.

    hvg run generate --level 2
    torchrun --nproc-per-node 8 -m stages.generate --level 2
    python -m stages.generate --level 2

Interrupted, the same command goes on with the shards that are missing.
"""

import argparse
import logging
import shutil
from collections.abc import Sequence

from pipeline.code_hash import code_hash
from pipeline.data.store.reader import ViewReader
from pipeline.generation import artifact
from pipeline.generation.generate import SPLITS, generate, sigma_of, source_of
from pipeline.params import load_params
from pipeline.paths import Made, Paths, alone, publish
from pipeline.system.stage import run_stage
from pipeline.system.values import fingerprint
from pipeline.workers import join_workers

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, required=True)
    level = parser.parse_args(argv).level
    params, paths = load_params(), Paths()
    with join_workers() as workers:
        data = ViewReader(paths.pyramid, 1, "train", in_memory=0)
        source = source_of(params, paths, level, data)
        folder = paths.artifact(level)
        made_as = params.level(level, classes=0)
        generators = {
            s: artifact.read(folder, s, sigma_of(s, params.sigma), made_as).to(workers.device) for s in SPLITS
        }
        below = source.conditions["samples"].digest if source.conditions else None
        digests = [data.digest, below, artifact.digest(folder)]
        inputs = fingerprint(source.params, params.sigma, params.seed, digests, code_hash("stages.generate"))
        work = paths.work(f"generate-level-{level}", inputs, paths.samples(level))
        made = Made.of(paths, paths.samples(level), inputs)
        with alone(work, workers.rank):
            if workers.any(workers.rank == 0 and made.restore()):
                log.info("%s is as this code made it of this level; without %s it is made anew", made.out, made.folder)
                if workers.rank == 0:
                    shutil.rmtree(work)
                return
            generate(generators, source, work / "samples", workers)
            if workers.rank == 0:
                made.keep(work / "samples")
                publish(work / "samples", made.out)
                shutil.rmtree(work)


if __name__ == "__main__":
    run_stage(main)

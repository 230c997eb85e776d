"""Generate a level's samples, data/samples/level-l: what metrics are of, what people see, and windows of the top level.

    hvg run sample --level 2
    torchrun --nproc-per-node 8 -m stages.sample --level 2
    python -m stages.sample --level 2

Interrupted, the same command goes on with the shards that are missing. A store whose parameters have not changed is
published as it was.
"""

import argparse
import shutil
from collections.abc import Sequence

from pipeline.code_hash import code_hash
from pipeline.generation.generate import publish_store
from pipeline.generation.source import sample_sources
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.system.stage import run_stage
from pipeline.workers import join_workers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, required=True)
    level = parser.parse_args(argv).level
    params, paths, code = load_params(), Paths(), code_hash("stages.sample")
    params.of_level(level)
    with join_workers() as workers:
        sources, folder = sample_sources(params, paths, level, workers), paths.samples(level)
        for name, source in sources.items():
            publish_store(source(), params, paths, level, folder / name, code=code, workers=workers)
        for old in folder.iterdir() if workers.rank == 0 else ():
            if old.name not in sources:  # of other parameters
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


if __name__ == "__main__":
    run_stage(main)

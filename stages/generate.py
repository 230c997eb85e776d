"""Generate a level's conditions, data/conditions/level-l: what the level above is trained on, and nothing else.

    hvg run generate --level 1
    torchrun --nproc-per-node 8 -m stages.generate --level 1
    python -m stages.generate --level 1

Interrupted, the same command goes on with the shards that are missing.
"""

import argparse
from collections.abc import Sequence

from pipeline.code_hash import code_hash
from pipeline.errors import UserError
from pipeline.generation.generate import publish_store
from pipeline.generation.source import condition_source
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.system.stage import run_stage
from pipeline.workers import join_workers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, required=True)
    level = parser.parse_args(argv).level
    params, paths, code = load_params(), Paths(), code_hash("stages.generate")
    params.of_level(level)
    if level == params.n_levels:
        raise UserError(f"--level {level}: the top level makes no conditions; its samples are of `hvg run sample`")
    with join_workers() as workers:
        source = condition_source(params, paths, level, workers)
        publish_store(source, params, paths, level, paths.conditions(level), code=code, workers=workers)


if __name__ == "__main__":
    run_stage(main)

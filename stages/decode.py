"""Decode the videos of data.root into the pyramid, data/pyramid.

python -m stages.decode [--workers N]
torchrun --nnodes 2 --node-rank R --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m stages.decode   on each of two nodes
"""

import argparse
import os
from collections.abc import Sequence

from pipeline.data.decode import Share, decode
from pipeline.machine import cores
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.stage import run_stage


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=cores(), help="processes on each node (default: cores)")
    options = parser.parse_args(argv)
    paths = Paths()
    share = Share(rank=int(os.environ.get("RANK", "0")), count=int(os.environ.get("WORLD_SIZE", "1")))  # torchrun's
    decode(load_params(paths.params), paths, options.workers, share)


if __name__ == "__main__":
    run_stage(main)

"""Decode the videos of data.root into the pyramid, data/pyramid.

hvg run decode                                       as a stage: retries, logs, resuming
hvg run decode --cluster NAME --nodes 2              its shards shared out between two nodes of a cluster
torchrun --nnodes 2 --node-rank R --master-addr HOST -m stages.decode      by hand, on each of two nodes
python -m stages.decode [--workers N]                by hand, on this machine
"""

import argparse
from collections.abc import Sequence

from pipeline.data.decode import decode
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.system.machine import cores
from pipeline.system.stage import run_stage
from pipeline.workers import join_workers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=cores(), help="processes on each node (default: cores)")
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error(f"--workers: at least 1, not {options.workers}")
    paths = Paths()
    with join_workers(gpus=False) as nodes:
        decode(load_params(paths.params), paths, options.workers, nodes)


if __name__ == "__main__":
    run_stage(main)

"""Decode the videos of data.root into the pyramid, data/pyramid.

python -m stages.decode [--workers N]
"""

import argparse
from collections.abc import Sequence

from pipeline.data.decode import decode
from pipeline.machine import cores
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.stage import run_stage


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: cores)")
    options = parser.parse_args(argv)
    paths = Paths()
    decode(load_params(paths.params), paths, options.workers)


if __name__ == "__main__":
    run_stage(main)

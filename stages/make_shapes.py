"""Render the moving shapes of params.shapes into data/<key>.

python -m stages.make_shapes --key shapes [--workers N]
"""

import argparse
from collections.abc import Sequence

from pipeline.data.shapes_files import make_shapes
from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.system.machine import cores
from pipeline.system.stage import run_stage


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", required=True, help="which set of params.shapes")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: cores)")
    options = parser.parse_args(argv)
    paths = Paths()
    params = load_params(paths.params)
    if options.key not in params.shapes:
        raise UserError(f"{paths.params}: shapes: no set {options.key!r}, only {', '.join(params.shapes) or 'none'}")
    make_shapes(params.shapes[options.key], options.key, params.seed, paths, options.workers)


if __name__ == "__main__":
    run_stage(main)

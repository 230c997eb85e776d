"""The listing: which files a data set has. The decode stage depends on it instead of on terabytes of video."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.layouts.datasets import reads
from pipeline.data.layouts.walk import list_files, listing_bytes
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths, origin, write_atomic
from pipeline.system.yaml import shortened


def data_root(params: Params, paths: Paths) -> Path:
    """The folder of the videos: data.root, absolute or from the project's root.

    Of an experiment of DVC's it is the root of the checkout that it comes from: git knows no videos, its copy has none.
    """
    return (paths.root if params.rendered else origin(paths.root)) / Path(params.data.root).expanduser()


def list_root(params: Params, paths: Paths) -> pd.DataFrame:
    """The files of data.root that decode depends on: videos and what the layout reads beside them.

    The root may be the project's folder: what the pipeline makes there, the listing and the videos of samples
    included, is no data. Columns and errors: see `walk.list_files`.
    """
    return list_files(data_root(params, paths), reads(params.data), leave_out=made_here(params, paths))


def made_here(params: Params, paths: Paths) -> list[Path]:
    """What the pipeline makes in the project's folder, and is no data."""
    paths = Paths(origin(paths.root))  # whose folder data.root may be
    listing = paths.root / params.data.listing
    return [
        listing,
        paths.pyramid,
        paths.conditions(1).parent,
        paths.samples(1).parent,
        paths.artifact(1).parent,
        paths.reports,
    ]


def not_to_keep_in(params: Params, paths: Paths) -> list[Path]:
    """Where in the project's folder nothing may be put that shall stay: it is made anew, or another program's."""
    here = Paths(origin(paths.root))
    shapes = [here.root / "data" / key for key in params.shapes]
    return [*made_here(params, paths), *shapes, here.state, here.root / ".dvc", here.root / ".git"]


def listing_of(params: Params, paths: Paths) -> bytes:
    """The listing of data.root. Raises UserError where none can be made, or data.listing holds something else."""
    out = paths.root / params.data.listing
    if os.path.lexists(out):
        read_listing(out)  # what is no listing is not ours to replace
    return listing_bytes(list_root(params, paths))


def prepare_listing(params: Params, paths: Paths, content: bytes | None = None) -> bool:
    """Write data.listing from data.root, for `hvg recipe` and `hvg index`. Returns whether it changed.

    It is untouched where nothing changed, so that DVC sees no change either. Nothing happens for rendered shapes:
    make-shapes writes their listing. content: what it is to hold, where that is known.
    """
    if params.rendered:
        return False
    out = paths.root / params.data.listing
    content = listing_of(params, paths) if content is None else content
    if out.is_file() and out.read_bytes() == content:
        return False
    write_atomic(out, content)
    return True


def read_listing(path: Path) -> pd.DataFrame:
    """The table that `prepare_listing` wrote. Raises UserError where there is none, or another text."""
    if not os.path.lexists(path):
        raise UserError(f"data.listing: {path} does not exist; `hvg index` writes it")
    if not path.is_file():  # a pipe has no end
        raise UserError(f"data.listing: {path} is no listing (no file): move it away, and `hvg index` writes one")
    types: Any = {"path": str, "size": "int64", "mtime": "int64"}
    try:
        table = pd.read_csv(path, dtype=types, keep_default_na=False, lineterminator="\n")
        if list(table) != list(types) or not isinstance(table.index, pd.RangeIndex):  # rows longer than the head
            raise ValueError(f"its columns are not {', '.join(types)} alone")
        return table
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        way_out = "move it away, and `hvg index` writes one"
        raise UserError(f"data.listing: {path} is no listing ({shortened(str(error))}): {way_out}") from error

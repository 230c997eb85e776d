"""The layouts of data sets by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.data.layouts import bdd, folder, kinetics, table
from pipeline.data.layouts.index import Index
from pipeline.errors import UserError
from pipeline.params import DataParams

LAYOUTS = {"kinetics": kinetics, "bdd100k": bdd, "folder": folder, "table": table}


def reads(data: DataParams) -> Callable[[str], bool]:
    """Which files of the root, by their paths, the layout reads beside the videos: they belong into the listing."""
    return partial(LAYOUTS[data.layout].reads, data=data)


def index_videos(data: DataParams, listing: pd.DataFrame, root: Path) -> Index:
    """Which videos a listing holds, with their splits and classes.

    listing: see `walk.list_files`. root: where the annotations that it lists are read.

    Raises UserError where the layout finds no video.
    """
    found = LAYOUTS[data.layout].index(listing, root, data)
    if found.videos.empty:
        raise UserError(
            f"data.layout: {data.layout}: none of the {len(listing)} files listed under {root} fits this layout "
            f"({len(found.missing)} annotated videos have no file); another layout, data.layout=folder, takes any video"
        )
    return found

"""The layouts of data sets by name."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.data.layouts import bdd, folder, kinetics, table
from pipeline.data.layouts.index import Index, alike
from pipeline.errors import UserError
from pipeline.params import DataParams

log = logging.getLogger(__name__)

LAYOUTS = {"kinetics": kinetics, "bdd100k": bdd, "folder": folder, "table": table}


def reads(data: DataParams) -> Callable[[str], bool]:
    """Which files of the root, by their paths, the layout reads beside the videos: they belong into the listing."""
    return partial(LAYOUTS[data.layout].reads, data=data)


def index_videos(data: DataParams, listing: pd.DataFrame, root: Path) -> Index:
    """Which videos a listing holds, with their splits and classes.

    listing: see `walk.list_files`. root: where the annotations that it lists are read.

    Raises UserError where the layout finds no video.
    """
    index = LAYOUTS[data.layout].index(listing, root, data)
    if index.videos.empty:
        raise UserError(
            f"data.layout: {data.layout}: none of the {len(listing)} files listed under {root} fits this layout ("
            f"{len(index.missing)} annotated videos have no file); another layout, data.layout=folder, takes any video"
        )
    for names in alike(index.classes):
        same = ", ".join(map(repr, names))
        log.warning("data: %s are classes of their own: their names look alike", same)
    return index

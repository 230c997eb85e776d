"""The layouts of data sets by name."""

from pathlib import Path

import pandas as pd

from pipeline.data import bdd, folder, kinetics
from pipeline.data.index import Index
from pipeline.errors import UserError

LAYOUTS = {"kinetics": kinetics.index, "bdd100k": bdd.index, "folder": folder.index}


def index_videos(layout: str, listing: pd.DataFrame, root: Path) -> Index:
    """Which videos a listing holds, with their splits and classes.

    layout: the parameter data.layout. listing: see `listing.list_files`. root: where annotations are read.

    Raises UserError where the layout finds no video.
    """
    found = LAYOUTS[layout](listing, root)
    if found.videos.empty:
        raise UserError(
            f"data.layout: {layout}: none of the {len(listing)} files listed under {root} fits this layout "
            f"({len(found.missing)} annotated videos have no file); another layout, data.layout=folder, takes any video"
        )
    return found

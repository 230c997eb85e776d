"""BDD100K: videos/{train,val,test}/<8 hex>-<8 hex>.mov, drives without classes (Yu et al., 2018)."""

import re
from pathlib import Path

import pandas as pd

from pipeline.data.index import Index, make_index
from pipeline.data.listing import is_video

DRIVE = re.compile(r"(?:.*/)?(?P<split>train|val|test)/[0-9a-f]{8}-[0-9a-f]{8}\.mov", re.IGNORECASE)


def index(listing: pd.DataFrame, root: Path) -> Index:
    """Drives by the folder that they lie in; other videos are unlisted."""
    videos, unlisted = [], []
    for path in filter(is_video, listing["path"]):
        drive = DRIVE.fullmatch(path)
        if drive:
            videos.append((path, drive["split"].lower(), ""))
        else:
            unlisted.append(path)
    return make_index(videos, unlisted=unlisted)

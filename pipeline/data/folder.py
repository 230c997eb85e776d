"""Any folder of videos: sub-folders are classes, or there are none; `train`, `val` and `test` above them are splits."""

import hashlib
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.data.index import Index, make_index
from pipeline.data.listing import is_video

SPLITS = ("train", "val", "test")
VAL_SHARE = 0.1


def index(listing: pd.DataFrame, root: Path) -> Index:
    """Splits from the folders train, val and test at the top, if there is one; what lies beside them is unlisted.

    Without such a folder a tenth of the videos, chosen by a hash of their paths, is the split val: it stays the same
    when videos are added. Of two videos or more, at least one is.
    """
    paths = list(filter(is_video, listing["path"]))
    parts = {path: PurePosixPath(path).parts for path in paths}
    if any(len(parts[path]) > 1 and parts[path][0] in SPLITS for path in paths):
        videos, unlisted = [], []
        for path in paths:
            if len(parts[path]) > 1 and parts[path][0] in SPLITS:
                videos.append((path, parts[path][0], _class(parts[path][1:])))
            else:
                unlisted.append(path)
        return make_index(videos, unlisted=unlisted)
    val = _validation(paths)
    return make_index([(path, "val" if path in val else "train", _class(parts[path])) for path in paths])


def _class(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) > 1 else ""


def _validation(paths: list[str]) -> set[str]:
    if len(paths) < 2:
        return set()
    place = {path: int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) for path in paths}
    lowest = min(paths, key=lambda path: place[path])
    highest = max(paths, key=lambda path: place[path])
    return ({path for path in paths if place[path] < VAL_SHARE * 2**64} | {lowest}) - {highest}

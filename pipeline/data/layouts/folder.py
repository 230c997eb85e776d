"""Any folder of videos: sub-folders are classes, or there are none; `train`, `val` and `test` above them are splits."""

import hashlib
from pathlib import Path

import pandas as pd

from pipeline.data.layouts.index import SPLITS, Index, make_index
from pipeline.data.layouts.walk import is_image, pictures_of, videos_of
from pipeline.params import DataParams

VAL_SHARE = 0.1
BESIDE = "beside the folders train, val and test"
PICTURES = "numbered images, but beside a video file"


def reads(path: str, data: DataParams) -> bool:
    """Nothing but videos, or their images."""
    return data.image_rate is not None and is_image(path)


def index(listing: pd.DataFrame, root: Path, data: DataParams) -> Index:
    """Splits by `split_paths`, classes by the folder below the split, or at the top where there are no split folders.

    What lies beside split folders is unlisted, and so are the folders of images that lie beside a video.
    """
    files = listing["path"].tolist()
    paths = videos_of(files)
    splits = split_paths(paths)
    below = any(path.split("/")[0].lower() in SPLITS for path in paths if "/" in path)
    videos = [(path, split, _class(path, below)) for path, split in splits.items()]
    unlisted = [(path, BESIDE) for path in paths if path not in splits]
    return make_index(videos, unlisted=unlisted + [(path, PICTURES) for path in pictures_of(files)])


def split_paths(paths: list[str]) -> dict[str, str]:
    """Split by path, from the folders train, val and test at the top, if there is one; those beside them have none.

    Where there is nothing but train, or no such folder, a tenth of the videos, chosen by a hash of their paths, is the
    split val: it stays the same when videos are added. Of two videos or more, at least one is.
    """
    folders = {path: path.split("/")[0] for path in paths if "/" in path}
    named = {path: SPLITS[name.lower()] for path, name in folders.items() if name.lower() in SPLITS}
    if set(named.values()) - {"train"}:
        return named
    whole = list(named) or paths
    val = _validation(whole)
    return {path: "val" if path in val else "train" for path in whole}


def _class(path: str, below_split: bool) -> str:
    folders = path.split("/")[:-1]
    return next(iter(folders[1:] if below_split else folders), "")


def _validation(paths: list[str]) -> set[str]:
    if len(paths) < 2:
        return set()
    place = {path: int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) for path in paths}
    lowest = min(paths, key=lambda path: place[path])
    highest = max(paths, key=lambda path: place[path])
    return ({path for path in paths if place[path] < VAL_SHARE * 2**64} | {lowest}) - {highest}

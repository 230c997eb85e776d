"""BDD100K: drives named <8 hex>-<8 hex>, in the folders or lists of their splits, weather, scene and time of day in
label JSON (Yu et al., 2018).
"""

import json
import logging
import mmap
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pipeline.data.layouts.index import Index, folder_split, make_index, split_of
from pipeline.data.layouts.walk import is_video
from pipeline.errors import UserError
from pipeline.params import DataParams
from pipeline.progress import progress

log = logging.getLogger(__name__)

DRIVE = re.compile("(?<![0-9a-f])[0-9a-f]{8}-[0-9a-f]{8}(?![0-9a-f])", re.IGNORECASE)
DEPTH = 3  # folders above a split list
NONE = "undefined"  # the annotators' word for no label
READERS = 16  # label files read at a time: there may be 100,000, far away

NO_DRIVE = "not named like a drive"
NO_SPLIT = "in no split"
SECOND = "a second file of the same drive"


def reads(path: str, data: DataParams) -> bool:
    """Split lists, which are text files named after a split; label JSON where data.attribute asks for it."""
    if path.lower().endswith(".json"):
        return data.attribute is not None
    return path.lower().endswith(".txt") and path.count("/") <= DEPTH and bool(split_of(PurePosixPath(path).stem))


def index(listing: pd.DataFrame, root: Path, data: DataParams) -> Index:
    """Drives by the list that names them, else by the nearest folder named after a split, however deep.

    A list may name drives by their files, one a line. A drive that it names and that has no file is missing; a video
    that is no drive, a second file of one and one without split are unlisted. Classes are data.attribute, from label
    JSON; "" where it is null or a drive has no label.

    Raises UserError where lists contradict each other, or there are no labels of data.attribute.
    """
    files = [path for path in listing["path"] if reads(path, data)]
    listed = _lists([path for path in files if path.lower().endswith(".txt")], root)
    labels = {}
    if data.attribute is not None:
        jsons = [root / path for path in files if path.lower().endswith(".json")]
        labels = read_labels(jsons, data.attribute)
        if not labels:
            raise UserError(
                f"data.attribute: {data.attribute}, but none of the {len(jsons)} JSON files listed under {root} says "
                "it of a drive: unpack BDD100K's labels there and run `hvg index`, or set it to null"
            )
    videos, unlisted = [], []
    used = set()
    by_size = listing.assign(empty=listing["size"] == 0).sort_values("empty", kind="stable")
    for path in filter(is_video, by_size["path"]):  # an empty file of a drive that has another is the second
        drive = PurePosixPath(path).stem.lower()
        split = listed.get(drive) or folder_split(path)
        if not DRIVE.fullmatch(drive):
            unlisted.append((path, NO_DRIVE))
        elif split is None:
            unlisted.append((path, NO_SPLIT))
        elif drive in used:
            unlisted.append((path, SECOND))
        else:
            used.add(drive)
            videos.append((path, split, labels.get(drive, "")))
    missing = [(split, labels.get(drive, ""), drive) for drive, split in listed.items() if drive not in used]
    return make_index(videos, missing, unlisted)


def _lists(lists: list[str], root: Path) -> dict[str, str]:
    """Split by drive."""
    splits: dict[str, str] = {}
    for name in lists:
        split = split_of(PurePosixPath(name).stem)
        assert split is not None  # reads() asked for it
        try:
            text = (root / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{root / name}: cannot be read: {error.strerror}; `hvg index` lists anew") from error
        drives = [drive.lower() for drive in DRIVE.findall(text)]
        if not drives:
            log.warning("%s is named like the list of a split, but names no drive", name)
        for drive in drives:
            if splits.setdefault(drive, split) != split:
                raise UserError(f"{root / name}: {drive} is in the list of another split, {splits[drive]}, too")
    return splits


def read_labels(files: list[Path], attribute: str) -> dict[str, str]:
    """The value of an attribute by drive (lower case), for those that have one.

    files: in any of the published forms: an object a drive, `{"name": DRIVE, "attributes": {...}}`; a list of such
    objects for images, named DRIVE.jpg; or Scalabel's `{"frames": [...]}` of them. Others say nothing. Where the
    images of a drive differ, it has the most frequent value, of equally frequent ones the first by name.

    Raises UserError where a file is no JSON.
    """
    votes: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda file: _values(file, attribute), files)
        for values in progress(read, total=len(files), desc="read labels", unit="files"):
            for (drive, value), count in values.items():
                votes.setdefault(drive, Counter())[value] += count
    return {drive: min(counts, key=lambda value: (-counts[value], value)) for drive, counts in votes.items()}


def _values(file: Path, attribute: str) -> Counter[tuple[str, str]]:
    """How often a file says which value of which drive."""
    found: Counter[tuple[str, str]] = Counter()

    def shrink(item: dict[str, Any]) -> dict[str, Any]:
        """Count what an object says, and keep nothing else of it: a whole file would take ten times its size."""
        drive, attributes = DRIVE.match(str(item.get("name"))), item.get("attributes")
        value = attributes.get(attribute) if isinstance(attributes, dict) else None
        if drive is not None and isinstance(value, str) and value not in ("", NONE):
            found[drive[0].lower(), value] += 1
        return {attribute: item[attribute]} if attribute in item else {}

    try:
        with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            text = str(mapped, "utf-8-sig")  # from the file's cache: it may have a gigabyte, and memory holds it once
        json.loads(text, object_hook=shrink)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no readable JSON: {error}; mend it or move it out of data.root") from error
    return found

"""Kinetics: a table a split, and clips named after their video and their times (Carreira et al., 2018)."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from pipeline.data.index import Index, make_index
from pipeline.data.listing import is_video
from pipeline.errors import UserError

COLUMNS = {"youtube_id", "time_start", "time_end"}
SPLIT_NAMES = {"validate": "val", "validation": "val"}  # as some of the published tables call it


class Clip(NamedTuple):
    """What a file name says: a YouTube id, start and end in seconds. The same id occurs at several times."""

    id: str
    start: int
    end: int


def index(listing: pd.DataFrame, root: Path) -> Index:
    """Match the files <id>_%06d_%06d.* in whatever folder with the rows of the tables directly under the root.

    Tables: any CSV with the columns youtube_id, time_start and time_end; label and split where they have them, else
    no class and the split that the file's name begins or ends with. A row without file is missing, a file without row
    (or a second one of the same clip) unlisted.

    Raises UserError where there is no table.
    """
    rows = _annotations([path for path in listing["path"] if path.lower().endswith(".csv")], root)
    videos, unlisted, used = [], [], set()
    for path in filter(is_video, listing["path"]):
        clip = parse_name(path)
        splits = rows.get(clip, {}) if clip else {}
        inside = [part for part in PurePosixPath(path).parts[:-1] if part in splits]
        split = next(iter(inside or splits), None)
        if split is None or (split, clip) in used:
            unlisted.append(path)
        else:
            used.add((split, clip))
            videos.append((path, split, splits[split]))
    missing = [
        (split, name, *clip)
        for clip, splits in rows.items()
        for split, name in splits.items()
        if (split, clip) not in used
    ]
    return make_index(videos, missing, unlisted)


def parse_name(path: str) -> Clip | None:
    """<id>_%06d_%06d.<extension>, read from the right: an id may begin with - and hold _. None for other names."""
    parts = PurePosixPath(path).stem.rsplit("_", 2)
    if len(parts) != 3 or not parts[0] or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return Clip(parts[0], int(parts[1]), int(parts[2]))


def _annotations(tables: list[str], root: Path) -> dict[Clip, dict[str, str]]:
    """Class by clip and split."""
    rows: dict[Clip, dict[str, str]] = {}
    found = False
    for name in tables:
        try:
            # as text: an id may read NA or look like a number
            table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        except ValueError as error:  # pandas' own errors and wrong encodings are ValueErrors
            raise UserError(f"{root / name}: no readable CSV: {error}") from error
        if not COLUMNS.issubset(table.columns):
            continue
        found = True
        try:
            starts, ends = (table[column].astype(float).astype(int) for column in ("time_start", "time_end"))
        except ValueError as error:
            raise UserError(f"{root / name}: time_start and time_end must be seconds: {error}") from error
        labels = table["label"] if "label" in table else [""] * len(table)
        splits = table["split"] if "split" in table else [_split_of(name)] * len(table)
        for label, youtube_id, start, end, split in zip(labels, table["youtube_id"], starts, ends, splits, strict=True):
            clip = Clip(str(youtube_id), start, end)
            rows.setdefault(clip, {}).setdefault(SPLIT_NAMES.get(str(split), str(split)), str(label))
    if not found:
        raise UserError(
            f"{root}: data.layout is kinetics, but no CSV with the columns {', '.join(sorted(COLUMNS))} lies here; "
            "data.layout=folder needs none"
        )
    return rows


def _split_of(name: str) -> str:
    """train.csv, kinetics_600_val.csv, validate_2020.csv …"""
    words = Path(name).stem.lower().replace("-", "_").split("_")
    known = [word for word in words if word in ("train", "val", "test") or word in SPLIT_NAMES]
    return known[0] if known else Path(name).stem

"""Kinetics: a table a split, and clips named after their video and their times (Carreira et al., 2018)."""

import logging
import posixpath
from pathlib import Path
from typing import cast

import pandas as pd

from pipeline.data.layouts.index import (
    SPLIT_COLUMN,
    SPLITS,
    Index,
    folder_split,
    make_index,
    plain,
    read_tables,
    split_of,
)
from pipeline.data.layouts.walk import is_video
from pipeline.errors import UserError
from pipeline.params import DataParams

log = logging.getLogger(__name__)

LONGEST_SECONDS = 999_999  # that a clip's name holds
COLUMNS = {"youtube_id", "time_start", "time_end"}
DEPTH = 2  # folders above a table: the published archives keep them in annotations/, or k600/annotations/

UNKNOWN = "in no table"
SECOND = "a second file of the same clip"
SEVERAL_CLIPS = "named by an id that has several clips"
SEVERAL_SPLITS = "in the tables of several splits, and in the folder of none"


def reads(path: str, data: DataParams) -> bool:
    """CSV files, and texts named as a split, at most DEPTH folders deep; CSV with other columns do not matter."""
    stem, suffix = posixpath.splitext(posixpath.basename(path.lower()))
    return path.count("/") <= DEPTH and (suffix == ".csv" or (suffix == ".txt" and stem in SPLITS))


def index(listing: pd.DataFrame, root: Path, data: DataParams) -> Index:
    """Match files with the rows of the tables by their names, in whatever folder and container they are.

    <id>_%06d_%06d.* is the clip of that id and these times, <id>.* the only one of that id. A folder named after a
    split (train, videos_val, train_256) decides where a row of that name is in several; else folders mean nothing:
    classes come from the tables, as they are written there.

    Tables: any listed file with the columns youtube_id, time_start and time_end; label and split where they have them,
    else no class and the split that the file is named after. A row without file is missing, a file without row (or a
    second one of the same clip) unlisted.

    Raises UserError where there is no table.
    """
    paths = listing["path"].tolist()
    empty = set(listing.loc[listing["size"] == 0, "path"])
    rows = _annotations([root / path for path in paths if reads(path, data)], root)
    by_id: dict[str, list[str]] = {}
    for name in rows:
        by_id.setdefault(name.rsplit("_", 2)[0], []).append(name)
    candidates = []
    for path in filter(is_video, paths):
        stem = path.rpartition("/")[2].rpartition(".")[0]
        name = stem if stem in rows else clip_name(stem)
        bare = name not in rows
        # An empty clip, or a corrupt one that has a replacement in a folder of that name, is the second.
        replaced = not any(name.startswith("replacement") for name in path.lower().split("/")[:-1])
        rank = (path in empty, bare, replaced)
        candidates.append((rank, path, by_id.get(stem, []) if bare else [name]))

    videos, unlisted = [], []
    used: set[tuple[str, str]] = set()
    for _, path, names in sorted(candidates):  # exact names first: where both are there, one by its id is the second
        clip = _choose(path, names, rows)
        if isinstance(clip, str):
            unlisted.append((path, clip))
        elif clip in used:
            unlisted.append((path, SECOND))
        else:
            used.add(clip)
            split, name = clip
            videos.append((path, split, rows[name][split]))
    missing = [
        (split, label, name)
        for name, splits in rows.items()
        for split, label in splits.items()
        if (split, name) not in used
    ]
    return make_index(videos, missing, unlisted)


def clip_name(stem: str) -> str | None:
    """A file's name as <id>_%06d_%06d, however its times (seconds) are filled up; None for other names.

    Read from the right: an id may begin with - and hold _, and the same id occurs at several times.
    """
    parts = stem.rsplit("_", 2)
    if len(parts) != 3 or not parts[0] or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return f"{parts[0]}_{int(parts[1]):06d}_{int(parts[2]):06d}"


def _choose(path: str, names: list[str], rows: dict[str, dict[str, str]]) -> tuple[str, str] | str:
    """The split and name of the clip of a file that may be one of `names`; or why there is none."""
    choice = [(split, name) for name in names for split in rows[name]]
    if len(choice) > 1:
        named = folder_split(path, {plain(rows[name][split]) for split, name in choice})  # `val_d'isere` is a class
        choice = [(split, name) for split, name in choice if split == named] if named else choice
    if len(choice) == 1:
        return choice[0]
    if not names:
        return UNKNOWN
    return SEVERAL_SPLITS if len(names) == 1 else SEVERAL_CLIPS


def _annotations(files: list[Path], root: Path) -> dict[str, dict[str, str]]:
    """Class by name and split."""
    tables, columns = read_tables(files, COLUMNS), ", ".join(sorted(COLUMNS))
    read = {file for file, _ in tables}
    way_out = "kinetics600.tar.gz of DeepMind has tables that do, and data.layout=folder needs none"
    for file in files:
        if file.suffix.lower() == ".txt" and file not in read:
            log.warning("%s: not read, as no line at its head names the columns %s; %s", file, columns, way_out)
    if not tables:
        raise UserError(
            f"{root}: data.layout is kinetics, but no CSV with the columns {columns} lies here; "
            "data.layout=folder needs none"
        )
    rows: dict[str, dict[str, str]] = {}
    torn: dict[str, str] = {}
    for file, table in tables:
        starts, ends = (_seconds(file, cast("pd.Series", table[column])) for column in ("time_start", "time_end"))
        named = split_of(file.stem) or file.stem
        more = table.reindex(columns=["label", "split"], fill_value="")
        splits = more["split"].str.lower()
        for line, label, youtube_id, start, end, split in zip(
            table.index, more["label"], table["youtube_id"], starts, ends, splits, strict=True
        ):
            clip = f"{youtube_id}_{start:06d}_{end:06d}"
            if rows.setdefault(clip, {}).setdefault(SPLIT_COLUMN.get(split, split) or named, label) != label:
                torn.setdefault(clip, f"{file}: line {line}")
    if torn:
        clip, place = next(iter(torn.items()))
        told = "%d clips have two labels in the tables, and the first counts: %s, again in %s …"
        log.warning(told, len(torn), clip, place)
    return rows


def _seconds(file: Path, column: pd.Series) -> list[int]:
    """Times of a table, cut to whole seconds. Raises UserError with the line of one that is none."""
    numbers = cast("pd.Series", pd.to_numeric(column, errors="coerce"))
    wrong = ~numbers.between(0, LONGEST_SECONDS)
    if wrong.any():
        line = wrong.idxmax()
        raise UserError(f"{file}: line {line}: {column.name} must be seconds, not {column[line]!r}")
    return numbers.astype(int).tolist()

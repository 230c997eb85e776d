"""A table of videos: CSV or Parquet files of path, label and split in the data's root."""

import posixpath
from pathlib import Path

import pandas as pd

from pipeline.data.layouts import folder
from pipeline.data.layouts.index import SPLIT_COLUMN, Index, make_index, read_tables, split_of
from pipeline.data.layouts.walk import is_video, pictures_of, videos_of
from pipeline.errors import UserError
from pipeline.params import DataParams

UNKNOWN = "in no table"
NO_VIDEO = "in a table, but named like no video"


def reads(path: str, data: DataParams) -> bool:
    """CSV and Parquet files directly in the root, of which those without a column `path` do not matter; images."""
    return folder.reads(path, data) or _is_table(path)


def index(listing: pd.DataFrame, root: Path, data: DataParams) -> Index:
    """The videos that the tables name.

    Columns: path (relative to the root, or absolute below it; \\ counts as /), label (none: no class) and split (none:
    what the table's own name says, such as train.csv; else as `folder.split_paths`). Listed files that no table names
    are unlisted, and so are named ones that are no video by their suffix, and folders of images that lie beside a
    video; other named ones that are not listed are missing.

    Raises UserError where no table has paths, where a path leaves the root, and where two rows of one path differ.
    """
    rows = _rows([root / path for path in listing["path"] if _is_table(path)], root)
    files = listing["path"].tolist()
    listed, pictures = set(videos_of(files)), set(pictures_of(files))
    unsplit = [path for path, (_, split) in rows.items() if not split and (path in listed or is_video(path))]
    places = folder.split_paths([path for path in unsplit if path not in listed])
    places |= folder.split_paths([path for path in unsplit if path in listed])
    videos, missing, unlisted = [], [], [(path, UNKNOWN) for path in listed if path not in rows]
    unlisted += [(path, folder.PICTURES) for path in pictures]
    for path, (label, given) in rows.items():
        split = given or places.get(path, "")
        if path in pictures:
            continue
        if path not in listed and not is_video(path):
            unlisted.append((path, NO_VIDEO))
        elif path not in listed:
            missing.append((split, label, path))
        elif split:
            videos.append((path, split, label))
        else:
            unlisted.append((path, folder.BESIDE))
    return make_index(videos, missing, unlisted)


def _is_table(path: str) -> bool:
    return "/" not in path and path.lower().endswith((".csv", ".tsv", ".parquet"))


def _rows(files: list[Path], root: Path) -> dict[str, tuple[str, str]]:
    """Label and split ("" where none is given) by path."""
    tables = read_tables(files, {"path"})
    if not tables:
        raise UserError(
            f"{root}: data.layout is table, but no CSV or Parquet file with a column path lies here; "
            "data.layout=folder needs none"
        )
    rows: dict[str, tuple[str, str]] = {}
    for file, table in tables:
        named = split_of(file.stem) or ""
        columns = table.reindex(columns=["path", "label", "split"], fill_value="").to_numpy().tolist()
        for line, (path, label, split) in zip(table.index, columns, strict=True):
            inside = _inside(path, root)
            if inside is None:
                raise UserError(f"{file}: line {line}: {path!r} must be the path of a file in {root}")
            row = (label, SPLIT_COLUMN.get(split.lower(), split) or named)
            if rows.setdefault(inside, row) != row:
                raise UserError(f"{file}: line {line}: {path!r} has another label or split in an earlier line")
    return rows


def _inside(path: str, root: Path) -> str | None:
    """A path as the listing has it: relative to the root, cut by /. None for one that leads out of it."""
    path = path.replace("\\", "/")
    if posixpath.isabs(path):
        path = posixpath.relpath(path, root.absolute().as_posix())
    inside = posixpath.normpath(path) if path else "."
    return None if inside.split("/")[0] in ("..", ".") else inside

"""A table of videos: CSV or Parquet files of path, label and split in the data's root."""

import posixpath
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.layouts import folder
from pipeline.data.layouts.index import SPLITS, Index, make_index, read_csv, split_of
from pipeline.data.layouts.walk import is_video
from pipeline.errors import UserError
from pipeline.params import DataParams

COLUMNS = ("path", "label", "split")
LISTING = {"path", "size", "mtime"}  # the columns of a listing: another project may keep its own in the same root

UNKNOWN = "in no table"
NO_VIDEO = "in a table, but named like no video"


def reads(path: str, data: DataParams) -> bool:
    """CSV and Parquet files directly in the root; those without a column `path` do not matter."""
    return "/" not in path and path.lower().endswith((".csv", ".parquet"))


def index(listing: pd.DataFrame, root: Path, data: DataParams) -> Index:
    """The videos that the tables name.

    Columns: path (posix, relative to the root), label (none: no class) and split (none: what the table's own name
    says, such as train.csv; else as `folder.split_paths`). Listed files that no table names are unlisted, and so are
    named ones that are no video by their suffix; other named ones that are not listed are missing.

    Raises UserError where no table has paths, where a path leaves the root, and where two rows of one path differ.
    """
    rows = _rows([path for path in listing["path"] if reads(path, data)], root)
    listed = set(filter(is_video, listing["path"]))
    unsplit = [path for path, (_, split) in rows.items() if not split and is_video(path)]
    places = folder.split_paths([path for path in unsplit if path not in listed])
    places |= folder.split_paths([path for path in unsplit if path in listed])
    videos, missing, unlisted = [], [], [(path, UNKNOWN) for path in listed if path not in rows]
    for path, (label, given) in rows.items():
        split = given or places.get(path, "")
        if not is_video(path):
            unlisted.append((path, NO_VIDEO))
        elif path not in listed:
            missing.append((split, label, path))
        elif split:
            videos.append((path, split, label))
        else:
            unlisted.append((path, folder.BESIDE))
    return make_index(videos, missing, unlisted)


def _rows(tables: list[str], root: Path) -> dict[str, tuple[str, str]]:
    """Label and split ("" where none is given) by path."""
    rows: dict[str, tuple[str, str]] = {}
    found = False
    for name in tables:
        file = root / name
        columns = _parquet(file) if name.lower().endswith(".parquet") else _csv(file)
        if columns is None:
            continue
        found = True
        named = split_of(PurePosixPath(name).stem) or ""
        for number, (path, label, split) in enumerate(zip(*columns, strict=True), 1):
            inside = posixpath.normpath(path)
            if not path or posixpath.isabs(path) or inside.split("/")[0] in ("..", "."):
                raise UserError(f"{file}: row {number}: {path!r} must be the path of a file in {root}, relative to it")
            row = (label, SPLITS.get(split.lower(), split) or named)
            if rows.setdefault(inside, row) != row:
                raise UserError(f"{file}: row {number}: {path!r} has another label or split in an earlier row")
    if not found:
        raise UserError(
            f"{root}: data.layout is table, but no CSV or Parquet file with a column path lies here; "
            "data.layout=folder needs none"
        )
    return rows


def _csv(file: Path) -> list[list[str]] | None:
    table = read_csv(file, {"path"})
    if table is None or set(table.columns) == LISTING:
        return None
    return [list(table[name]) if name in table else [""] * len(table) for name in COLUMNS]


def _parquet(file: Path) -> list[list[str]] | None:
    try:
        with pq.ParquetFile(file) as source:
            if "path" not in source.schema_arrow.names:
                return None
            table = source.read(columns=[name for name in COLUMNS if name in source.schema_arrow.names])
        texts = {name: table[name].cast(pa.string()).fill_null("").to_pylist() for name in table.column_names}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: no readable Parquet file: {error}; mend it or move it out of data.root") from error
    return [texts.get(name, [""] * len(table)) for name in COLUMNS]

"""What a data set holds, whatever its layout."""

import csv
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError

SPLITS = {word: word for word in ("train", "val", "test")} | dict.fromkeys(("valid", "validate", "validation"), "val")


@dataclass(frozen=True, kw_only=True)
class Index:
    """The videos of a data set, in the order of their paths.

    videos: path (posix, relative to the root), split, class ("" where it has none).
    missing: annotated, but there is no file: split, class, name (as the layout names a video).
    unlisted: video files that belong to no split, and why: path, reason.
    """

    videos: pd.DataFrame
    missing: pd.DataFrame
    unlisted: pd.DataFrame

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes found, annotated but missing ones included, sorted: the order of the labels."""
        return tuple(sorted({*self.videos["class"], *self.missing["class"]} - {""}))


def make_index(
    videos: list[tuple[str, str, str]],
    missing: list[tuple[str, str, str]] | None = None,
    unlisted: list[tuple[str, str]] | None = None,
) -> Index:
    """From rows (path, split, class), (split, class, name) and (path, reason)."""
    return Index(
        videos=pd.DataFrame(sorted(videos), columns=["path", "split", "class"], dtype=str),
        missing=pd.DataFrame(sorted(missing or []), columns=["split", "class", "name"], dtype=str),
        unlisted=pd.DataFrame(sorted(unlisted or []), columns=["path", "reason"], dtype=str),
    )


def label_names(index: Index, classes: int | None) -> tuple[str, ...]:
    """The classes in the order of their labels; `classes` is the parameter data.classes, 0 for none of them.

    Raises UserError where there are more than the networks shall know.
    """
    if classes == 0:
        return ()
    if classes is not None and len(index.classes) > classes:
        raise UserError(
            f"data.classes: {classes}, but {len(index.classes)} classes are in the data; "
            "null takes as many as there are, 0 ignores them"
        )
    return index.classes


def split_of(name: str) -> str | None:
    """The split that a word of a name names: train_256, videos_val, kinetics-600_validate. None for none or several."""
    found = {SPLITS[word] for word in re.split("[_-]", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def folder_split(path: str, classes: Collection[str] = ()) -> str | None:
    """The split that the nearest of a path's folders is named after; one that is named after a class does not count.

    classes: as `plain` has them.
    """
    folders = [name for name in path.split("/")[-2::-1] if plain(name) not in classes]
    return next((split for split in map(split_of, folders) if split), None)


def plain(label: str) -> str:
    """What is left of a label in every way to name its folder: torchvision, mmaction2 and the crawler differ."""
    return re.sub("[^a-z0-9]+", "", label.lower())


def read_tables(files: list[Path], needed: set[str]) -> list[tuple[Path, pd.DataFrame]]:
    """The CSV and Parquet files that have the columns `needed`, as text: an id may read NA or look like a number.

    Raises UserError where one cannot be read, or where a row of a CSV has more fields than there are columns; empty
    ones at its end do not count.
    """
    found = []
    for file in files:
        kind, read = ("Parquet file", _parquet) if file.suffix.lower() == ".parquet" else ("CSV", _csv)
        try:
            table = read(file, needed)
        except (OSError, ValueError, csv.Error, pa.ArrowException) as error:  # pandas' own errors are ValueErrors
            raise UserError(f"{file}: no readable {kind}: {error}; mend it or move it out of data.root") from error
        if table is not None:
            found.append((file, table))
    return found


def _parquet(file: Path, needed: set[str]) -> pd.DataFrame | None:
    with pq.ParquetFile(file) as source:
        if not needed.issubset(source.schema_arrow.names):
            return None
        table = source.read()
    plain = [name for name in table.column_names if name in needed or not pa.types.is_nested(table[name].type)]
    return pd.DataFrame({name: table[name].cast(pa.string()).fill_null("").to_pylist() for name in plain}, dtype=str)


def _csv(file: Path, needed: set[str]) -> pd.DataFrame | None:
    columns = list(pd.read_csv(file, nrows=0, encoding_errors="replace").columns)
    return pd.DataFrame(_rows(file, len(columns)), columns=columns, dtype=str) if needed.issubset(columns) else None


def _rows(file: Path, columns: int) -> Iterator[list[str]]:
    """All rows below the head, short ones filled up. pandas would shift the columns where rows are a field too long."""
    with file.open(newline="", encoding="utf-8-sig") as text:
        lines = csv.reader(text, strict=True)
        rows = (row for row in lines if len(row) > 1 or "".join(row).strip())  # lines of nothing are no rows
        next(rows)
        for row in rows:
            if any(row[columns:]):
                raise ValueError(f"line {lines.line_num} has {len(row)} fields, but there are {columns} columns")
            yield row[:columns] + [""] * (columns - len(row))

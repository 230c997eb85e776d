"""What a data set holds, whatever its layout."""

import codecs
import csv
import logging
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError

log = logging.getLogger(__name__)

LISTING = {"path", "size", "mtime"}  # the columns of a listing: another project may keep its own in the same root
MORE = ("label", "split")  # columns of a table beside those that make it one
SPLITS = {word: word for word in ("train", "val", "test")} | dict.fromkeys(("valid", "validate", "validation"), "val")
SPLIT_COLUMN = {**SPLITS, "training": "train"}  # what a column `split` says, in lower case; a folder may train dogs


@dataclass(frozen=True, kw_only=True)
class Index:
    """The videos of a data set, in the order of their paths.

    videos: path (posix, relative to the root), split, class ("" where it has none).
    missing: annotated, but there is no file: split, class, name (as the layout names a video).
    unlisted: video files, and folders of images, that belong to no split, and why: path, reason.
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


def alike(names: Collection[str]) -> list[list[str]]:
    """Groups of names that differ alone in case, spaces, how accents are written, or letters that nobody sees."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", seen).casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


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
    splits = {SPLITS[word] for word in re.split("[_-]", name.lower()) if word in SPLITS}
    return splits.pop() if len(splits) == 1 else None


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
    """The CSV and Parquet files that have the columns `needed`, as text without spaces around it; but no listings.

    Of their columns those that are needed, and MORE, in lower case; a table without labels that has others is told.
    As text: an id may read NA or look like a number. A CSV may be cut by commas, semicolons or tabs, or as its first
    line says (`sep=;`), in UTF-8 or, as spreadsheets write it, UTF-16. The index of a table counts lines of a CSV and
    rows of a Parquet file, from 1.

    Raises UserError where one cannot be read or has such a column twice, or where a row of a CSV has more fields than
    there are columns; empty ones at its end do not count.
    """
    tables = []
    for file in files:
        kind, read = ("Parquet file", _parquet) if file.suffix.lower() == ".parquet" else ("CSV", _csv)
        try:
            table = read(file, needed)
        except (OSError, ValueError, csv.Error, pa.ArrowException) as error:  # wrong encodings are ValueErrors
            raise UserError(f"{file}: no readable {kind}: {error}; mend it or move it out of data.root") from error
        if table is not None:
            tables.append((file, table.apply(lambda column: column.str.strip())))
    return tables


def _chosen(file: Path, names: list[str], needed: set[str]) -> list[str]:
    """The columns to read. Raises ValueError for one that is there twice."""
    chosen = [name for name in names if name in needed or name in MORE]
    for name in chosen:
        if chosen.count(name) > 1:
            raise ValueError(f"{chosen.count(name)} columns are named {name}")
    if "label" not in chosen and (others := [name for name in names if name and name not in chosen]):
        log.warning("%s: no column is named label: its videos have no class; not read: %s", file, ", ".join(others))
    return chosen


def _parquet(file: Path, needed: set[str]) -> pd.DataFrame | None:
    with pq.ParquetFile(file) as source:
        names = source.schema_arrow.names
        lower = [name.strip().lower() for name in names]
        if not needed.issubset(lower):
            return None
        places = {name: lower.index(name) for name in _chosen(file, lower, needed)}
        table = source.read(columns=[names[place] for place in places.values()])
    columns = {name: table[names[place]] for name, place in places.items()}
    texts = {name: column.cast(pa.string()).fill_null("").to_pylist() for name, column in columns.items()}
    return pd.DataFrame(texts, dtype=str, index=range(1, len(table) + 1))


def _csv(file: Path, needed: set[str]) -> pd.DataFrame | None:
    with file.open("rb") as opened:
        start = opened.read(2)
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    if len(start) == 2 and 0 in start:  # no letter of a head is a zero
        encoding = "utf-16-be" if start[0] == 0 else "utf-16-le"
    with file.open(newline="", encoding=encoding, errors="replace") as text:
        lines = (line for line in text if line.strip())
        head, heads = next(lines, ""), 1
        if said := re.fullmatch(r"sep=(.)\s*", head):
            head, heads = next(lines, ""), 2
    if not head:
        raise ValueError("it is empty")
    for delimiter in said[1] if said else ",;\t":
        cells = next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])
        columns = [name.strip().lower() for name in cells]
        if needed.issubset(columns):
            if set(columns) == LISTING:
                return None
            chosen = _chosen(file, columns, needed)
            rows = dict(_rows(file, encoding, delimiter, len(columns), heads))
            return pd.DataFrame(rows.values(), columns=columns, dtype=str, index=list(rows)).loc[:, chosen]
    return None


def _rows(file: Path, encoding: str, delimiter: str, columns: int, heads: int) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of all rows below the `heads` first lines, short ones filled up.

    pandas would shift the columns where rows are a field too long, and knows no line of what is wrong.
    """
    with file.open(newline="", encoding=encoding) as text:
        lines = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = (row for row in lines if len(row) > 1 or "".join(row).strip())  # lines of nothing are no rows
        for row in islice(rows, heads, None):
            if any(row[columns:]):
                raise ValueError(f"line {lines.line_num} has {len(row)} fields, but there are {columns} columns")
            yield lines.line_num, row[:columns] + [""] * (columns - len(row))

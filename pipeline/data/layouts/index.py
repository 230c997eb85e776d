"""What a data set holds, whatever its layout."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

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


def read_csv(file: Path, needed: set[str]) -> pd.DataFrame | None:
    """A CSV as text; None, after a look at its head alone, where it has not the columns `needed`.

    As text: an id may read NA or look like a number. Raises UserError where it cannot be read, or where a row has more
    fields than there are columns; empty ones at its end do not count.
    """
    try:
        columns = list(pd.read_csv(file, nrows=0, encoding_errors="replace").columns)
        if not needed.issubset(columns):
            return None
        return pd.DataFrame(_rows(file, len(columns)), columns=columns, dtype=str)
    except (OSError, ValueError, csv.Error) as error:  # pandas' own errors and wrong encodings are ValueErrors
        raise UserError(f"{file}: no readable CSV: {error}; mend it or move it out of data.root") from error


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

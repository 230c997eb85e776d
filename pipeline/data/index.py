"""What a data set holds, whatever its layout."""

from dataclasses import dataclass

import pandas as pd

from pipeline.errors import UserError

MISSING_COLUMNS = ["split", "class", "id", "start", "end"]


@dataclass(frozen=True, kw_only=True)
class Index:
    """The videos of a data set, in the order of their paths.

    videos: path (posix, relative to the root), split, class ("" where it has none).
    missing: annotated, but there is no file: split, class, id, start, end (seconds).
    unlisted: video files that the annotations or the layout do not know: path.
    """

    videos: pd.DataFrame
    missing: pd.DataFrame
    unlisted: pd.DataFrame

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes found, annotated but missing ones included, sorted: the order of the labels."""
        return tuple(sorted({*self.videos["class"], *self.missing["class"]} - {""}))


def make_index(
    videos: list[tuple[str, str, str]], missing: list[tuple] | None = None, unlisted: list[str] | None = None
) -> Index:
    """From rows (path, split, class), (split, class, id, start, end) and paths."""
    return Index(
        videos=pd.DataFrame(sorted(videos), columns=["path", "split", "class"], dtype=str),
        missing=pd.DataFrame(sorted(missing or []), columns=MISSING_COLUMNS),
        unlisted=pd.DataFrame({"path": sorted(unlisted or [])}, dtype=str),
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

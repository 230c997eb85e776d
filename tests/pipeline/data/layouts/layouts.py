"""What the tests of the layouts share."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.layouts.index import Index
from pipeline.params import DataParams

CLIPS = Path(__file__).parents[5] / "shared" / "clips"


def of(layout: Any, attribute: Any = None, image_rate: float | None = None) -> DataParams:
    """The parameters of a layout; an index depends on no other."""
    return DataParams(
        layout=layout, root="", listing="", classes=None, mirror=False, image_rate=image_rate, attribute=attribute
    )


def listing(*paths: str) -> pd.DataFrame:
    """As if these were the files, not necessarily on disk."""
    return pd.DataFrame({"path": sorted(paths), "size": 1, "mtime": 0})


def touch(root: Path, *paths: str) -> None:
    """Empty files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def split_by_path(found: Index) -> dict[str, str]:
    return dict(zip(found.videos["path"], found.videos["split"], strict=True))


def reasons(found: Index) -> dict[str, str]:
    return dict(zip(found.unlisted["path"], found.unlisted["reason"], strict=True))


def counts(table: pd.DataFrame, *columns: str) -> dict[Any, int]:
    """How often each value of a column, or each combination of values of several, occurs."""
    values = [table[column].tolist() for column in columns]
    return dict(Counter(zip(*values, strict=True) if len(values) > 1 else values[0]))

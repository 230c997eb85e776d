"""Opening a finished store: what is damaged, or no longer as it was written, is one UserError that names the way out.

A store whose arrays lie at a URL has a `store.json` in the place of `zarr.json`: {"url": …, "digest": …, "files": …}.
Either has the SHA-256 of videos.parquet as "table"; zarr.json's attributes have the fingerprint of all others as
"checksum". A store of an earlier version has neither, and goes unchecked.
"""

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.storage import FsspecStore

from pipeline.errors import UserError, reading
from pipeline.system.values import fingerprint

WAY_OUT = "without it and .hvg/made `dvc repro --force` makes the store again; one from elsewhere is to be copied anew"


@dataclass(frozen=True, kw_only=True)
class StoreSize:
    """Shard files and their bytes by level."""

    files: dict[int, int]
    bytes: dict[int, int]


def read_table(path: Path) -> pd.DataFrame:
    """The table of a store's videos, also of one whose URL is out of reach."""
    file, facts = path / "videos.parquet", _facts(path)
    if not file.is_file():
        raise _none(path)
    with reading(file, WAY_OUT):
        content = file.read_bytes()
        if facts.get("table") not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("it has another checksum")
        return pd.read_parquet(io.BytesIO(content)).astype(dict.fromkeys(("row", "label", "n_frames"), np.int64))


def open_group(path: Path) -> zarr.Group:
    """The arrays of a store's folder, or those at the URL that its store.json names."""
    place, facts = place_of(path), _facts(path)
    with reading(path, WAY_OUT):
        odd = [str(file) for file in path.glob("*/zarr.json") if not file.is_file()]  # from which zarr would read
        if odd:
            raise ValueError(f"{odd[0]} is no file")
        group = _at_url(path, place, facts) if "://" in place else zarr.open_group(path, mode="r")
        said = dict(group.attrs)
        if said.pop("checksum", None) not in (None, fingerprint(said)):
            raise ValueError("zarr.json has another checksum")
        return group


def place_of(path: Path) -> str:
    """Where the arrays of a store lie: in its folder, or at the URL that its store.json names."""
    return str(_facts(path).get("url", path))


def finished_size(path: Path) -> StoreSize:
    """The size of a finished store's arrays."""
    with reading(path, WAY_OUT):
        if "files" in (facts := _facts(path)):
            found = [(key, of_file["bytes"]) for key, of_file in facts["files"].items()]
        else:
            shards = (file for file in path.glob("level-*/c/**/*") if file.is_file())
            found = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in shards]
        files, total = Counter[int](), Counter[int]()
        for key, size in sorted(found):
            level = int(key.partition("/")[0].removeprefix("level-"))
            files[level] += 1
            total[level] += size
        return StoreSize(files=dict(files), bytes=dict(total))


def _facts(path: Path) -> dict[str, Any]:
    """What lies in the folder itself: store.json, or the attributes of zarr.json."""
    file = next((path / name for name in ("zarr.json", "store.json") if (path / name).is_file()), None)
    if file is None:
        raise _none(path)
    with reading(file, WAY_OUT):
        said = json.loads(file.read_bytes())
        return {"url": said["url"], **said} if file.name == "store.json" else {**said["attributes"]}


def _none(path: Path) -> UserError:
    return UserError(f"{path}: no finished store here; `dvc repro` makes it")


def _at_url(path: Path, url: str, facts: dict[str, Any]) -> zarr.Group:
    digest = facts["digest"]
    with reading(path, f"see that {url} can be reached (network, bucket, credentials); decode again where it is gone"):
        try:
            group = zarr.open_group(FsspecStore.from_url(url, read_only=True), mode="r")
        except ImportError as error:  # fsspec says which package a URL needs
            raise UserError(f"decode.store {url}: {error}") from error
        except FileNotFoundError as error:
            raise UserError(f"decode.store {url}: no store there, though {path} points to it; decode again") from error
    if group.attrs.get("digest") != digest:
        raise UserError(f"decode.store {url}: holds another store than {path} points to; decode again")
    return group

"""Reading one view of a store by window: out of memory, of shard files in a local folder, or of a store at a URL.

A store whose arrays lie at a URL has a `store.json` in the place of `zarr.json`: {"url": …, "digest": …, "files": …}.
"""

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from jaxtyping import UInt8
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from pipeline.data.store.shard_reader import ShardReader, shard_reader
from pipeline.errors import UserError


class ViewReader:
    """One view of a store, pyramid or samples: `len(reader)` videos, read by window.

    path: the store's folder.
    level: the view, from 1.
    split: only this split's videos, in the order of the store's rows; None: all of them.
    in_memory: bytes below which the view is read into memory once; above, every window is read from the store.

    Videos that could not be decoded are not among them. Threads may share a reader, and worker processes, forked or
    spawned, may take it along. Raises UserError where the store, its view or the split does not exist; reading raises
    it where a file of the store is lost or damaged.
    """

    def __init__(self, path: Path, level: int, split: str | None = None, in_memory: int = 2**31):
        if not (path / "videos.parquet").is_file():
            raise UserError(f"{path}: no finished store here; `dvc repro` makes it")
        group = open_group(path)
        if f"level-{level}" not in group:
            raise UserError(f"{path}: has no level {level}")
        array = cast("zarr.Array[Any]", group[f"level-{level}"])
        videos = pd.read_parquet(path / "videos.parquet")
        if split is not None:
            videos = videos.loc[videos["split"] == split].reset_index(drop=True)
            if videos.empty:
                raise UserError(f"{path}: no video of the split {split!r}")
        self.videos: pd.DataFrame = videos
        factor = int(cast(int, array.attrs["time_factor"]))
        self.classes: tuple[str, ...] = tuple(cast("list[str]", group.attrs["classes"]))
        self.digest = str(group.attrs["digest"])
        self.size = int(array.shape[2])
        self.rows = self.videos["row"].to_numpy(np.int64)
        self.labels = self.videos["label"].to_numpy(np.int64)
        self.top_frames = self.videos["n_frames"].to_numpy(np.int64)  # of the store's highest view
        self.n_frames = -(-self.top_frames // factor)  # of this view
        self._first = np.concatenate([[0], np.cumsum(self.n_frames)])
        direct = shard_reader(array) if isinstance(array.store, LocalStore) else None
        self._source = direct or ZarrReader(path, level)
        total = int(self._first[-1]) * self.size * self.size * 3
        self._frames = self._load() if total < in_memory else None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, video: int, start: int, frames: int) -> UInt8[np.ndarray, "frames H W 3"]:
        """Frames `start` … `start + frames - 1` of a video (counted in this selection). ValueError outside it."""
        if start < 0 or frames < 1 or start + frames > self.n_frames[video]:
            raise ValueError(
                f"frames {start} to {start + frames - 1} of video {video}, which has {self.n_frames[video]}"
            )
        if self._frames is not None:
            first = int(self._first[video]) + start
            return self._frames[first : first + frames].copy()
        return self._source.read(int(self.rows[video]), start, frames)

    def _load(self) -> np.ndarray:
        """All frames of all videos, one after another."""
        frames = np.empty((int(self._first[-1]), self.size, self.size, 3), np.uint8)
        places = [frames[begin:end] for begin, end in zip(self._first[:-1], self._first[1:], strict=True)]
        if isinstance(self._source, ShardReader):
            for row, place in zip(self.rows, places, strict=True):
                self._source.fill(int(row), 0, place)
            return frames
        shard_of = self.rows // self._source.rows_of_shard  # a shard at a time, as zarr is fastest
        for shard in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == shard)
            longest, needed = int(self.n_frames[chosen].max()), int(self.n_frames[chosen].sum())
            if longest * self._source.rows_of_shard > 2 * needed:  # the whole block could be larger than the memory
                for video in chosen:
                    places[video][:] = self._source.read(int(self.rows[video]), 0, int(self.n_frames[video]))
                continue
            block = self._source.read_shard(int(shard), longest)
            for video in chosen:
                places[video][:] = block[self.rows[video] % self._source.rows_of_shard, : self.n_frames[video]]
        return frames


class ZarrReader:
    """The frames of a view's rows by zarr-python: for stores at a URL, and those that `shard_reader` does not know.

    Every process opens the store for itself, as connections do not outlive a fork.
    """

    def __init__(self, path: Path, level: int):
        self._path, self._level = path, level
        self._opened: tuple[int, zarr.Array[Any]] | None = None  # in which process

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def rows_of_shard(self) -> int:
        return (self._array.shards or self._array.chunks)[0]

    def read(self, row: int, start: int, frames: int) -> UInt8[np.ndarray, "frames H W 3"]:
        """Frames `start` … `start + frames - 1` of a row. UserError where a file is lost."""
        return np.asarray(self._array[row, start : start + frames])

    def read_shard(self, shard: int, frames: int) -> UInt8[np.ndarray, "rows frames H W 3"]:
        """The first frames of all rows of a shard."""
        begin = shard * self.rows_of_shard
        return np.asarray(self._array[begin : begin + self.rows_of_shard, :frames])

    @property
    def _array(self) -> "zarr.Array[Any]":
        if self._opened is None or self._opened[0] != os.getpid():
            store = _Whole(open_group(self._path).store)
            array = zarr.open_array(store, path=f"level-{self._level}", mode="r")
            self._opened = os.getpid(), array
        return self._opened[1]


class _Whole(WrapperStore[Store]):
    """A store whose shards are all there: zarr takes a lost one for zeros."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is None and "/c/" in key:
            raise UserError(f"{self._store}/{key}: lost from the store; decode it again")
        return value


def open_group(path: Path) -> zarr.Group:
    """The arrays of a store's folder, or those at the URL that its store.json names."""
    if (path / "zarr.json").is_file():
        return zarr.open_group(path, mode="r")
    if not (path / "store.json").is_file():
        raise UserError(f"{path}: no finished store here; `dvc repro` makes it")
    pointer = json.loads((path / "store.json").read_text())
    url = pointer["url"]
    try:
        group = zarr.open_group(FsspecStore.from_url(url, read_only=True), mode="r")
    except ImportError as error:  # fsspec says which package a URL needs
        raise UserError(f"decode.store {url}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"decode.store {url}: no store there, though {path} points to it; decode again") from error
    if group.attrs.get("digest") != pointer["digest"]:
        raise UserError(f"decode.store {url}: holds another store than {path} points to; decode again")
    return group

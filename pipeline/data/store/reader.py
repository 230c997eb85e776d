"""Reading one view of a store by window: out of memory, of shard files in a local folder, or of a store at a URL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from jaxtyping import UInt8

from pipeline.data.store.codecs import Codec
from pipeline.data.store.opening import WAY_OUT, open_group, place_of, read_table
from pipeline.data.store.shard_reader import ShardReader
from pipeline.errors import UserError, reading

READERS = 16  # videos that are read into memory at a time


class ViewReader:
    """One view of a store, pyramid or samples: `len(reader)` videos, read by window.

    path: the store's folder.
    level: the view, from 1.
    split: only this split's videos, in the order of the store's rows; None: all of them.
    in_memory: bytes below which the view is read into memory once; above, every window is read from the store.

    Videos that could not be decoded are not among them. Threads may share a reader. Raises UserError where the store,
    its view or the split does not exist; reading raises it where a file of the store is lost or damaged.
    """

    def __init__(self, path: Path, level: int, split: str | None = None, in_memory: int = 2**31):
        videos, group = read_table(path), open_group(path)
        with reading(path, WAY_OUT):
            if f"level-{level}" not in group:
                raise UserError(f"{path}: has no level {level}; {WAY_OUT}")
            array = cast("zarr.Array[Any]", group[f"level-{level}"])
            if array.shards is None or array.dtype != np.uint8 or array.shards[2:] != array.shape[2:]:
                raise UserError(
                    f"{path}: level-{level} is not stored as shards of whole uint8 frames; decode writes such"
                )
            self.level, self.codec = level, Codec.of_array(array)
            self.factor = int(cast(int, array.attrs["time_factor"]))  # K_T to the store's highest view
            self.classes: tuple[str, ...] = tuple(cast("list[str]", group.attrs["classes"]))
            self.digest = str(group.attrs["digest"])
            self.size = int(array.shape[2])
            last, longest = (max(videos[name].tolist(), default=0) for name in ("row", "n_frames"))
            if last >= array.shape[0] or array.shape[1] != max(1, -(-longest // self.factor)):
                raise ValueError(f"level-{level} has not the frames of videos.parquet")
            if split is not None:
                videos = videos.loc[videos["split"] == split].reset_index(drop=True)
        if split is not None and videos.empty:
            raise UserError(f"{path}: no video of the split {split!r}")
        self.videos: pd.DataFrame = videos
        self.rows = self.videos["row"].to_numpy(np.int64)
        self.labels = self.videos["label"].to_numpy(np.int64)
        self.top_frames = self.videos["n_frames"].to_numpy(np.int64)  # of the store's highest view
        self.n_frames = -(-self.top_frames // self.factor)  # of this view
        self._first = np.concatenate([[0], np.cumsum(self.n_frames)])
        (rows, shard_frames), chunk = array.shards[:2], array.chunks[1]
        cut = {"rows": rows, "chunk": chunk, "chunks": shard_frames // chunk, "size": self.size}
        self._source = ShardReader(f"{place_of(path)}/level-{level}", self.codec, **cut)
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
        out = np.empty((frames, self.size, self.size, 3), np.uint8)
        self._source.fill(int(self.rows[video]), start, out)
        return out

    def _load(self) -> np.ndarray:
        """All frames of all videos, one after another."""
        frames = np.empty((int(self._first[-1]), self.size, self.size, 3), np.uint8)
        places = [frames[begin:end] for begin, end in zip(self._first[:-1], self._first[1:], strict=True)]
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda row, place: self._source.fill(int(row), 0, place), self.rows, places))
        return frames

"""Reading views: which temporal windows of a video exist, and one view's frames out of a store.

Index arithmetic first, pure and apart from any file. `factors` holds K_T between successive views, lowest first: a
video with views of 12, 24 and 48 frames has factors (2, 2).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from jaxtyping import Int64, UInt8

from pipeline.errors import UserError


def frames_in_view(n_frames: int, factors: Sequence[int], view: int) -> int:
    """How many frames view `view` (from 1) has, given the number in the highest view: f_t keeps frames 0, K_T, …"""
    return -(-n_frames // math.prod(factors[view - 1 :]))


def start_in_view(start: int, factors: Sequence[int], view: int) -> int:
    """The frame of view `view` (from 1) shown together with frame `start` of the lowest view."""
    return start * math.prod(factors[: view - 1])


def window_starts(n_frames: int, factors: Sequence[int], level: int, window: int) -> int:
    """How many windows of a video a level can be trained on; window k starts at frame k of the lowest view.

    n_frames: of the highest view that `factors` counts. For windows of the samples of level l-1 give their frames
        and only the factors up to view l-1.
    window: frames of the level's condition, view level-1 (level 1: of view 1 itself).

    A window counts only if it exists in full in every view, so the last windows of view 1 may lack frames above.
    """
    span = window * math.prod(factors[max(level - 2, 0) :])
    if n_frames < span:
        return 0
    return (n_frames - span) // math.prod(factors) + 1


def windows_of_videos(
    n_frames: Int64[np.ndarray, " videos"], factors: Sequence[int], level: int, window: int
) -> Int64[np.ndarray, " videos"]:
    """`window_starts` for every video; 0 marks those too short to be trained on."""
    return np.array([window_starts(int(n), factors, level, window) for n in n_frames], dtype=np.int64)


def choose_start(uniform: float, starts: int) -> int:
    """The window that a uniform number in [0, 1) chooses among `starts` windows."""
    if not 0 <= uniform < 1 or starts < 1:
        raise ValueError(f"expected a number in [0, 1) and at least one window, not {uniform} and {starts}")
    return int(uniform * starts)


class ViewReader:
    """One view of a store, pyramid or samples: `len(reader)` videos, read by window.

    path: the store's folder.
    level: the view, from 1.
    split: only this split's videos, in the order of the store's rows; None: all of them.
    in_memory: bytes below which the view is read into memory once; above, every window is read from the store.

    Videos that could not be decoded are not among them. Raises UserError where the store, its view or the split does
    not exist.
    """

    def __init__(self, path: Path, level: int, split: str | None = None, in_memory: int = 2**31):
        if not (path / "zarr.json").is_file() or not (path / "videos.parquet").is_file():
            raise UserError(f"{path}: no finished store here; `dvc repro` makes it")
        group = zarr.open_group(path, mode="r")
        if f"level-{level}" not in group:
            raise UserError(f"{path}: has no level {level}")
        self._array = cast("zarr.Array[Any]", group[f"level-{level}"])
        videos = pd.read_parquet(path / "videos.parquet")
        if split is not None:
            videos = videos.loc[videos["split"] == split].reset_index(drop=True)
            if videos.empty:
                raise UserError(f"{path}: no video of the split {split!r}")
        self.videos: pd.DataFrame = videos
        factor = int(cast(int, self._array.attrs["time_factor"]))
        self.classes: tuple[str, ...] = tuple(cast("list[str]", group.attrs["classes"]))
        self.digest = str(group.attrs["digest"])
        self.size = int(self._array.shape[2])
        self.rows = self.videos["row"].to_numpy(np.int64)
        self.labels = self.videos["label"].to_numpy(np.int64)
        self.top_frames = self.videos["n_frames"].to_numpy(np.int64)  # of the store's highest view
        self.n_frames = -(-self.top_frames // factor)  # of this view
        self._first = np.concatenate([[0], np.cumsum(self.n_frames)])
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
        return np.asarray(self._array[int(self.rows[video]), start : start + frames])

    def _load(self) -> np.ndarray:
        """All frames of all videos, one after another; read a shard at a time, as zarr is fastest."""
        frames = np.empty((int(self._first[-1]), self.size, self.size, 3), np.uint8)
        rows_of_shard = (self._array.shards or self._array.chunks)[0]
        shard_of = self.rows // rows_of_shard
        for shard in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == shard)
            longest = int(self.n_frames[chosen].max())
            begin = int(shard) * rows_of_shard
            block = np.asarray(self._array[begin : begin + rows_of_shard, :longest])
            for video in chosen:
                kept = block[self.rows[video] - begin, : self.n_frames[video]]
                frames[self._first[video] : self._first[video + 1]] = kept
        return frames

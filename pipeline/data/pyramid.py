"""From a video's top view to all of its views, chunk by chunk: x^l = f_s(f_t(x^{l+1})) (Sec. 2)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from models.hierarchy import f_s, f_t
from pipeline.data.store.shard import ShardWriter


class Pyramid:
    """The views of one video on their way into a shard; holds a chunk of each. A `video.Sink`.

    factors: K_T between successive views, lowest first.

    Every view comes from the frames above it as they are stored, decoded again where the codec loses something.
    """

    def __init__(self, shard: ShardWriter, row: int, factors: Sequence[int]):
        self._shard, self._row = shard, row
        self._views: list[_Chunk] = []
        for level, factor in zip(sorted(shard.grids), (1, *factors), strict=True):
            self._views.append(_Chunk(shard, level, factor, self._views[-1] if self._views else None))
        self._top = self._views[-1]
        shard.begin(row)

    def put(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """The top view's next frame."""
        self._top.put(frame)

    def clear(self) -> None:
        """Forget all of it."""
        self._shard.clear()
        for view in self._views:
            view.clear()

    def end(self) -> int:
        """Store what is left. Returns the frames of the top view."""
        for view in reversed(self._views):
            view.flush()
        return self._top.stored


class _Chunk:
    """One view's chunk in the making, and the view below, which gets what becomes of it."""

    def __init__(self, shard: ShardWriter, level: int, factor: int, below: "_Chunk | None"):
        self._shard, self._level, self._factor, self._below = shard, level, factor, below
        grid = shard.grids[level]
        self.size = grid.size
        self._chunk = np.empty((grid.chunk, grid.size, grid.size, 3), np.uint8)
        self.clear()

    def clear(self) -> None:
        self._filled, self.stored = 0, 0

    def put(self, frame: np.ndarray) -> None:
        self._chunk[self._filled] = frame
        self._filled += 1
        if self._filled == len(self._chunk):
            self.flush()

    def flush(self) -> None:
        if not self._filled:
            return
        frames = self._shard.append(self._level, self._chunk[: self._filled])
        if self._below is not None:
            for small in self._smaller(frames, self._below.size):
                self._below.put(small)
        self.stored += self._filled
        self._filled = 0

    def _smaller(self, frames: np.ndarray, size: int) -> np.ndarray:
        """f_s(f_t(.)) of a chunk that begins at frame `stored`."""
        first = -self.stored % self._factor
        if first >= len(frames):
            return np.empty((0, size, size, 3), np.uint8)
        clip = torch.from_numpy(frames[first:]).permute(0, 3, 1, 2)[None]
        return f_s(f_t(clip, self._factor), size)[0].permute(0, 2, 3, 1).numpy()

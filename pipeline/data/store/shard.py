"""One shard of a store in the making: chunks go to its files one behind another, as videos are decoded.

Zarr's own writing of a shard takes the whole of it at once, an hour of 64 videos; this holds one chunk. A file is the
chunks in the order they came, then the index of Zarr v3's sharding codec: (offset, bytes) of every chunk in the order
of the grid, and its crc32c. A video's chunks of one file lie one behind another.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from pipeline.data.store.codecs import Codec

ABSENT = 2**64 - 1  # in the index: no such chunk, all zeros


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How one view is cut: frames a chunk, chunks a shard along time, pixels, codec; K_T from it to the top view."""

    chunk: int
    chunks: int
    size: int
    codec: Codec
    factor: int


class ShardWriter:
    """The files of one shard's rows, under a folder of their own until they are finished.

    rows: of the shard. Rows are begun in any order, each once; a row that is not begun has no frames.
    facts: whatever else is to be known of a finished shard, as JSON has it.
    """

    def __init__(self, folder: Path, grids: Mapping[int, Grid], rows: int):
        self._folder, self.grids, self._rows = folder, grids, rows
        self.facts: list[Any] = []
        self._index: dict[tuple[int, int], np.ndarray] = {}
        self._ends: dict[tuple[int, int], int] = {}  # bytes so far, by (level, file along time)
        self._open: dict[int, tuple[int, BinaryIO]] = {}  # by level: the file that is written to
        self._row, self._before = -1, dict(self._ends)
        self._frames = dict.fromkeys(grids, 0)  # of the row, by level
        folder.mkdir(parents=True)

    def begin(self, row: int) -> None:
        """What follows belongs to this row, counted in the shard."""
        assert 0 <= row < self._rows
        self._row, self._before = row, dict(self._ends)
        self._frames = dict.fromkeys(self.grids, 0)

    def append(self, level: int, frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        """The row's next chunk of a view: whole, or shorter and the row's last. Returns what will be read of it.

        Raises ValueError for frames of another size or type.
        """
        grid, before = self.grids[level], self._frames[level]
        shape = (grid.size, grid.size, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != shape:
            raise ValueError(f"level {level} takes uint8 {shape}, not {frames.dtype} {frames.shape[1:]}")
        assert self._row >= 0 and before % grid.chunk == 0 and 0 < len(frames) <= grid.chunk
        chunk = np.ascontiguousarray(frames)
        if len(frames) < grid.chunk:
            chunk = np.zeros((grid.chunk, *shape), np.uint8)
            chunk[: len(frames)] = frames
        data = grid.codec.encode(chunk)
        number, place = divmod(before // grid.chunk, grid.chunks)
        key = level, number
        if key not in self._index:
            self._index[key] = np.full((self._rows, grid.chunks, 2), ABSENT, "<u8")
            self._ends[key] = 0
        self._file(key).write(data)
        self._index[key][self._row, place] = self._ends[key], len(data)
        self._ends[key] += len(data)
        self._frames[level] += len(frames)
        if not grid.codec.lossy:
            return frames
        return grid.codec.decode(data, grid.chunk, grid.size)[: len(frames)].copy()  # writeable, as torch wants it

    def stored(self, level: int) -> int:
        """Bytes of a view's chunks so far."""
        return sum(end for (of, _), end in self._ends.items() if of == level)

    def clear(self) -> None:
        """Forget what the row has."""
        self._close()
        for key, index in self._index.items():
            index[self._row] = ABSENT
            self._ends[key] = self._before.get(key, 0)
            os.truncate(self._path(key), self._ends[key])
        self._frames = dict.fromkeys(self.grids, 0)

    def finish(self) -> dict[tuple[int, int], Path]:
        """End every file with its index, on the disk: by (level, place along time). Nothing is appended after that."""
        self._close()
        files = {}
        for key, index in sorted(self._index.items()):
            path = self._path(key)
            if not (index != ABSENT).any():  # of a row that was forgotten
                path.unlink()
                continue
            with path.open("ab") as file:
                plain = index.tobytes()
                file.write(plain + google_crc32c.value(plain).to_bytes(4, "little"))
                file.flush()
                os.fsync(file.fileno())
            files[key] = path
        return files

    def _path(self, key: tuple[int, int]) -> Path:
        return self._folder / f"level-{key[0]}-{key[1]}"

    def _file(self, key: tuple[int, int]) -> BinaryIO:
        level, number = key
        opened = self._open.get(level)
        if opened is None or opened[0] != number:
            if opened is not None:
                opened[1].close()
            self._open[level] = number, self._path(key).open("ab")
        return self._open[level][1]

    def _close(self) -> None:
        for _, file in self._open.values():
            file.close()
        self._open.clear()

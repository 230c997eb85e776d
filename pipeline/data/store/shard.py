"""One shard of a store in the making: chunks go to its files one behind another, as videos are decoded.

Zarr's own writing of a shard takes the whole of it at once, an hour of 64 videos; this holds one chunk. A file is the
chunks in the order they came, then the index of Zarr v3's sharding codec: (offset, bytes) of every chunk in the order
of the grid, and its crc32c. A video's chunks of one file lie one behind another.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from pipeline.data.store.codecs import Codec

ABSENT = 2**64 - 1  # in the index: no such chunk, all zeros


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How one view is cut: frames a chunk, chunks a shard along time, pixels, codec."""

    chunk: int
    chunks: int
    size: int
    codec: Codec


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """A finished file of a shard: of which view, the how manyth along time."""

    level: int
    number: int
    path: Path
    sha256: str
    bytes: int


class ShardWriter:
    """The files of one shard's rows, under a folder of their own until they are finished.

    rows: of the shard. Rows are begun in any order, each once; a row that is not begun has no frames.
    """

    def __init__(self, folder: Path, grids: Mapping[int, Grid], rows: int):
        self._folder, self.grids, self._rows = folder, grids, rows
        self._index: dict[tuple[int, int], np.ndarray] = {}
        self._ends: dict[tuple[int, int], int] = {}  # bytes so far, by (level, file along time)
        self._open: dict[int, tuple[int, BinaryIO]] = {}  # by level: the file that is written to
        self._row, self._before = -1, dict(self._ends)
        self._frames = dict.fromkeys(grids, 0)  # of the row, by level
        self.longest = dict.fromkeys(grids, 0)  # frames of a row, by level
        folder.mkdir(parents=True)

    def begin(self, row: int) -> None:
        """What follows belongs to this row, counted in the shard."""
        if not 0 <= row < self._rows:
            raise ValueError(f"row {row} of a shard of {self._rows}")
        self._count()
        self._row, self._before = row, dict(self._ends)

    def append(self, level: int, frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        """The row's next chunk of a view: whole, or shorter and the row's last. Returns what will be read of it.

        Raises ValueError for anything else.
        """
        grid, before = self.grids[level], self._frames[level]
        shape = (grid.size, grid.size, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != shape:
            raise ValueError(f"level {level} takes uint8 {shape}, not {frames.dtype} {frames.shape[1:]}")
        if self._row < 0 or before % grid.chunk or not 0 < len(frames) <= grid.chunk:
            raise ValueError(
                f"{len(frames)} frames behind {before}: chunks have {grid.chunk}, a row's last may have less"
            )
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
        written, size = 0, len(data)
        while written < size:
            written += self._file(key).write(memoryview(data)[written:])
        self._index[key][self._row, place] = self._ends[key], size
        self._ends[key] += size
        self._frames[level] += len(frames)
        if not grid.codec.lossy:
            return frames
        return grid.codec.decode(data, grid.chunk, grid.size)[: len(frames)].copy()  # writeable, as torch wants it

    def clear(self) -> None:
        """Forget what the row has."""
        self._close()
        for key, index in self._index.items():
            index[self._row] = ABSENT
            self._ends[key] = self._before.get(key, 0)
            os.truncate(self._path(key), self._ends[key])
        self._frames = dict.fromkeys(self.grids, 0)

    def finish(self) -> list[ShardFile]:
        """End every file with its index, on the disk. Nothing is appended after that."""
        self._count()
        self._close()
        files = []
        for (level, number), index in sorted(self._index.items()):
            path = self._path((level, number))
            if not (index != ABSENT).any():  # of a row that was forgotten
                path.unlink()
                continue
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                plain = index.tobytes()
                file.write(plain + google_crc32c.value(plain).to_bytes(4, "little"))
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(ShardFile(level=level, number=number, path=path, sha256=digest, bytes=path.stat().st_size))
        return files

    def _count(self) -> None:
        for level, frames in self._frames.items():
            self.longest[level] = max(self.longest[level], frames)
        self._frames = dict.fromkeys(self.grids, 0)

    def _path(self, key: tuple[int, int]) -> Path:
        return self._folder / f"level-{key[0]}-{key[1]}"

    def _file(self, key: tuple[int, int]) -> BinaryIO:
        level, number = key
        opened = self._open.get(level)
        if opened is None or opened[0] != number:
            if opened is not None:
                opened[1].close()
            self._open[level] = number, self._path(key).open("ab", buffering=0)
        return self._open[level][1]

    def _close(self) -> None:
        for _, file in self._open.values():
            file.close()
        self._open.clear()

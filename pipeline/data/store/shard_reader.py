"""Frames of a stored view straight from its shard files: for random windows, by far faster than zarr-python.

A shard file holds the chunks of some videos, and at its end the index of Zarr v3's sharding codec: (offset, bytes) of
every chunk in the order of the grid, little-endian uint64, and the index's crc32c. Encoded chunks are read whole, and
so is a raw one the first time, to check it; later only its frames that are asked for. What a store lacks is an error:
Zarr itself would read a lost file as zeros.
"""

import functools
import math
import os
import stat
from typing import NamedTuple

import fsspec
import google_crc32c
import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from pipeline.data.store.codecs import Codec
from pipeline.data.store.opening import WAY_OUT
from pipeline.data.store.shard import ABSENT
from pipeline.errors import UserError

OPEN_FILES = 128  # of one reader at a time; a process has a few readers, and 1024 files by most systems' default


class ShardReader:
    """The frames of a view's rows, out of shard files in a local folder or at a URL.

    Threads may share one: nothing has a place in a file. Indexes are checked when first read and then kept, 17 bytes
    a chunk.

    folder: the array's, or its URL. rows: of a shard. chunk: frames of one; chunks: of a shard along time.
    """

    def __init__(self, folder: str, codec: Codec, *, rows: int, chunk: int, chunks: int, size: int):
        self._folder, self._codec, self._rows, self._chunk, self._chunks = folder, codec, rows, chunk, chunks
        self._size, self._frame_bytes = size, size * size * 3
        self._indexes: dict[str, _Index] = {}
        self._open = functools.lru_cache(OPEN_FILES)(_File)

    def fill(self, row: int, start: int, out: UInt8[np.ndarray, "frames H W 3"]) -> None:
        """Read frames `start` … of a row into a contiguous array. UserError where a file is lost or damaged."""
        shard, row = divmod(row, self._rows)
        done = 0
        while done < len(out):
            chunk, skipped = divmod(start + done, self._chunk)
            part, chunk = divmod(chunk, self._chunks)
            path = f"{self._folder}/c/{shard}/{part}/0/0/0"
            file = self._open(path)
            if (index := self._indexes.get(path)) is None:
                index = self._indexes[path] = self._read_index(file)
            offset, length = index.places[row, chunk].tolist()
            frames = out[done : done + self._chunk - skipped]
            if offset == ABSENT:
                frames[:] = 0
            elif index.plain[row, chunk]:
                file.fill(frames, offset + skipped * self._frame_bytes)
            else:
                frames[:] = self._decode(file, offset, length)[skipped : skipped + len(frames)]
                index.plain[row, chunk] = self._codec.name == "none"
            done += len(frames)

    def _decode(self, file: "_File", offset: int, length: int) -> np.ndarray:
        data = np.empty(length, np.uint8)
        file.fill(data, offset)
        try:
            return self._codec.decode(data.data, self._chunk, self._size)
        except ValueError as error:
            raise file.damaged(f"at byte {offset} {error}") from error

    def _read_index(self, file: "_File") -> "_Index":
        shape = (self._rows, self._chunks, 2)
        length = math.prod(shape) * 8 + 4
        end = file.size - length  # of the chunks
        if end < 0:
            raise file.damaged(f"{file.size} bytes are less than its index has")
        data = np.empty(length, np.uint8)
        file.fill(data, end)
        if google_crc32c.value(data[:-4].tobytes()) != int(data[-4:].view("<u4")[0]):
            raise file.damaged("its index has another checksum")
        index = data[:-4].view("<u8").reshape(shape)
        offsets, lengths = index[index[..., 0] != ABSENT].T
        if (offsets > end).any() or (lengths > end - offsets).any():
            raise file.damaged("its index names chunks behind its end")
        if (raw := self._codec.raw_bytes(self._chunk, self._size)) is not None and (lengths != raw).any():
            raise file.damaged("its index names chunks of another size")
        return _Index(index, np.full(shape[:2], raw is not None and not self._codec.checked))


class _Index(NamedTuple):
    """Of a shard's chunks: (offset, bytes), and whether single frames may be read of it."""

    places: UInt64[np.ndarray, "rows chunks 2"]
    plain: Bool[np.ndarray, "rows chunks"]


class _File:
    """An open file, closed once nobody holds it: a thread may still read what another one drops from the cache.

    Of a URL the file system is asked for every time.
    """

    def __init__(self, path: str):
        self.path, self._descriptor = path, -1
        try:
            if "://" in path:
                there, name = fsspec.core.url_to_fs(path)
                self.size = there.size(name)
            else:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
                facts = os.fstat(self._descriptor)
                self.size = facts.st_size
                if not stat.S_ISREG(facts.st_mode):
                    raise self.damaged("it is no file")
        except FileNotFoundError as error:
            raise UserError(f"{path}: lost from the store; {self._way_out}") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error}") from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def fill(self, out: np.ndarray, offset: int) -> None:
        """The bytes from `offset` on into a contiguous array."""
        left, end = out.data.cast("B"), offset + out.nbytes
        while left:  # a signal came, or more than 2 GiB
            try:
                count = self._read(left, end - len(left))
            except OSError as error:  # a disk's; it names no file
                raise UserError(f"{self.path}: cannot be read: {error}") from error
            if count == 0:
                raise self.damaged(f"it ends before byte {end}")
            left = left[count:]

    def damaged(self, how: str) -> UserError:
        return UserError(f"{self.path}: damaged, {how}; {self._way_out}")

    @property
    def _way_out(self) -> str:
        return "decode again" if "://" in self.path else WAY_OUT

    def _read(self, out: memoryview, offset: int) -> int:
        """Returns how many bytes came."""
        if self._descriptor >= 0:
            return os.preadv(self._descriptor, [out], offset)
        there, name = fsspec.core.url_to_fs(self.path)
        data = there.cat_file(name, offset, offset + len(out))
        out[: len(data)] = data
        return len(data)

"""Frames of a stored view straight from its shard files: for random windows, by far faster than zarr-python.

A shard file holds the chunks of some videos, and at its end the index of Zarr v3's sharding codec: (offset, bytes) of
every chunk in the order of the grid, little-endian uint64, and the index's crc32c. Of raw chunks only the frames asked
for are read, of encoded ones the whole. What a store lacks is an error: Zarr itself would read a lost file as zeros.
"""

import functools
import logging
import math
import os
from typing import Any, cast

import google_crc32c
import numpy as np
import zarr
from jaxtyping import UInt8, UInt64
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from pipeline.data.store.codecs import Codec
from pipeline.errors import UserError

OPEN_FILES = 128  # of one reader at a time; a process has a few readers, and 1024 files by most systems' default
_ABSENT = 2**64 - 1  # a chunk that is all zeros and was not written
_WAY_OUT = "`dvc checkout` or `dvc repro` brings the store back"
_INDEX_CODECS = (BytesCodec(endian="little"), Crc32cCodec())

log = logging.getLogger(__name__)


def shard_reader(array: "zarr.Array[Any]") -> "ShardReader | None":
    """A ShardReader of an array in a local folder; None, and a warning, where it is stored in another way than ours."""
    assert isinstance(array.store, LocalStore)
    metadata = cast(ArrayV3Metadata, array.metadata)
    sharding = metadata.codecs[0]
    size = array.shape[2]
    try:
        codec = Codec.of_array(array)
    except UserError as error:
        log.warning("%s; zarr-python reads it, which is slower", error)
        return None
    if (
        not isinstance(sharding, ShardingCodec)
        or (sharding.index_location.value, sharding.index_codecs) != ("end", _INDEX_CODECS)
        or (array.dtype, array.fill_value, array.shape[2:]) != (np.uint8, 0, (size, size, 3))
        or (array.chunks[0], array.chunks[2:], (array.shards or ())[2:]) != (1, array.shape[2:], array.shape[2:])
        or metadata.encode_chunk_key((1, 2, 0, 0, 0)) != "c/1/2/0/0/0"
    ):
        log.warning("%s: other shards than a view's; zarr-python reads it, which is slower", array.store_path)
        return None
    return ShardReader(array, codec)


class ShardReader:
    """The frames of a view's rows, out of shard files in a local folder; see `shard_reader`.

    Threads may share one, and a forked process goes on with it: nothing has a place in a file. Pickled, it takes no
    files along. Indexes are checked when first read and then kept, 16 bytes a chunk.
    """

    def __init__(self, array: "zarr.Array[Any]", codec: Codec):
        assert array.shards is not None
        self._array, self._codec = array, codec
        self._folder = f"{cast(LocalStore, array.store).root / array.path}/c"
        self._rows, shard_frames = array.shards[:2]
        self._chunk, self.size = array.chunks[1:3]
        self._chunks = shard_frames // self._chunk
        self._frame_bytes = self.size * self.size * 3
        self._indexes: dict[str, UInt64[np.ndarray, "rows chunks 2"]] = {}
        self._open = functools.lru_cache(OPEN_FILES)(_File)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._array, self._codec)

    def read(self, row: int, start: int, frames: int) -> UInt8[np.ndarray, "frames H W 3"]:
        """Frames `start` … `start + frames - 1` of a row. UserError where a file is lost or damaged."""
        out = np.empty((frames, self.size, self.size, 3), np.uint8)
        self.fill(row, start, out)
        return out

    def fill(self, row: int, start: int, out: UInt8[np.ndarray, "frames H W 3"]) -> None:
        """`read` into an array, contiguous."""
        shard, row = divmod(row, self._rows)
        span = self._chunks * self._chunk
        done = 0
        while done < len(out):
            number, first = divmod(start + done, span)
            count = min(len(out) - done, span - first)
            self._fill(f"{self._folder}/{shard}/{number}/0/0/0", row, first, out[done : done + count])
            done += count

    def _fill(self, path: str, row: int, first: int, out: np.ndarray) -> None:
        """Frames from `first` on, counted in a file."""
        begin, skipped = divmod(first, self._chunk)
        end = -(-(first + len(out)) // self._chunk)
        file = self._open(path)
        index = self._indexes.get(path)
        if index is None:
            index = self._indexes[path] = self._read_index(file)
        done = 0
        for offset, length in index[row, begin:end].tolist():
            frames = out[done : done + self._chunk - skipped]
            if offset == _ABSENT:
                frames[:] = 0
            elif self._codec.name == "none":
                file.fill(frames, offset + skipped * self._frame_bytes)
            else:
                frames[:] = self._decode(file, offset, length)[skipped : skipped + len(frames)]
            done, skipped = done + len(frames), 0

    def _decode(self, file: "_File", offset: int, length: int) -> np.ndarray:
        data = np.empty(length, np.uint8)
        file.fill(data, offset)
        try:
            return self._codec.decode(data.data, self._chunk, self.size)
        except ValueError as error:
            raise file.damaged(f"at byte {offset} {error}") from error

    def _read_index(self, file: "_File") -> np.ndarray:
        shape = (self._rows, self._chunks, 2)
        data = np.empty(math.prod(shape) * 8 + 4, np.uint8)
        end = file.size - data.nbytes  # of the chunks
        if end < 0:
            raise file.damaged(f"{file.size} bytes are less than its index has")
        file.fill(data, end)
        if google_crc32c.value(data[:-4].tobytes()) != int(data[-4:].view("<u4")[0]):
            raise file.damaged("its index has another checksum")
        index = data[:-4].view("<u8").reshape(shape)
        offsets, lengths = index[index[..., 0] != _ABSENT].T
        if (offsets > end).any() or (lengths > end - offsets).any():
            raise file.damaged("its index names chunks behind its end")
        if self._codec.name == "none" and (lengths != self._chunk * self._frame_bytes).any():
            raise file.damaged("its index names chunks of another size")
        return index


class _File:
    """An open file, closed once nobody holds it: a thread may still read what another one drops from the cache."""

    def __init__(self, path: str):
        self.path, self.descriptor = path, -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise UserError(f"{path}: lost from the store; {_WAY_OUT}") from error
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def fill(self, out: np.ndarray, offset: int) -> None:
        """The bytes from `offset` on into a contiguous array."""
        done = os.preadv(self.descriptor, [out.data], offset)
        while done < out.nbytes:  # a signal came, or more than 2 GiB
            more = os.preadv(self.descriptor, [out.reshape(-1).data[done:]], offset + done)
            if more == 0:
                raise self.damaged(f"it ends before byte {offset + out.nbytes}")
            done += more

    def damaged(self, how: str) -> UserError:
        return UserError(f"{self.path}: damaged, {how}; {_WAY_OUT}")

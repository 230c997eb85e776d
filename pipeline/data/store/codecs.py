"""How the chunks of a store's views are encoded: raw, by Blosc (lossless) or as JPEG (lossy).

A chunk is T frames of one video, uint8 [T, H, W, 3]. It ends with its crc32c, 4 bytes, so that damage is an error and
never a wrong picture. Raw chunks of stores made by an earlier version have none.

On frames of real clips at 128 px (one core; encoding, decoding, size):
    blosc      177 MB/s, 874 MB/s, 1.5 times smaller (zstd 5: 96 MB/s and 1.6; zstd 9: 8 MB/s and 1.7)
    jpeg 95    627 MB/s, 459 MB/s, 5.8 times smaller, 43 dB PSNR
"""

import asyncio
import io
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import zarr
from jaxtyping import UInt8
from numcodecs.blosc import Blosc
from numcodecs.checksum32 import CRC32C
from PIL import Image
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

from pipeline.errors import UserError
from pipeline.params import ConditionParams, DecodeParams

JPEG_ROWS = 65_500  # libjpeg's limit of an image's height
_BLOSC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE, typesize=1)
_CHECKSUM = CRC32C(location="end")


@dataclass(frozen=True)
class Codec:
    """How the chunks of a view are stored.

    quality: of "jpeg" alone, 1 to 100. checked: by a crc32c, as all but raw chunks of old stores.
    """

    name: Literal["none", "blosc", "jpeg"] = "none"
    quality: int = 95
    checked: bool = True

    @classmethod
    def of(cls, chosen: DecodeParams | ConditionParams) -> "Codec":
        """The one that parameters choose."""
        return cls(chosen.codec, chosen.jpeg_quality) if chosen.codec == "jpeg" else cls(chosen.codec)

    @property
    def lossy(self) -> bool:
        """Whether less is read than was written."""
        return self.name == "jpeg"

    def encode(self, chunk: UInt8[np.ndarray, "T H W 3"]) -> bytes | memoryview:
        """A whole, contiguous chunk to what the store holds; the same bytes every time."""
        match self.name:
            case "none":
                data = _flat(chunk)
            case "blosc":
                data = _BLOSC.encode(_flat(chunk))
            case "jpeg":
                data = encode_jpeg(chunk, self.quality)
        return _CHECKSUM.encode(data).data

    def decode(self, data: bytes | memoryview, frames: int, size: int) -> UInt8[np.ndarray, "T H W 3"]:
        """The chunk of `frames` frames of size x size, perhaps not writeable. ValueError where the data is damaged."""
        shape = (frames, size, size, 3)
        try:
            if self.checked:
                data = np.asarray(_CHECKSUM.decode(data)).data
            if self.name == "jpeg":
                return decode_jpeg(data, shape)
            raw = np.frombuffer(_BLOSC.decode(data) if self.name == "blosc" else data, np.uint8)
        except RuntimeError as error:  # numcodecs: another checksum, no Blosc
            raise ValueError(f"a damaged chunk: {error}") from error
        if raw.size != math.prod(shape):
            raise ValueError(f"a damaged chunk: {raw.size} bytes, not {math.prod(shape)}")
        return raw.reshape(shape)

    def raw_bytes(self, frames: int, size: int) -> int | None:
        """Of every chunk of so many frames, stored as they are; None where a codec makes them smaller."""
        return frames * size * size * 3 + 4 * self.checked if self.name == "none" else None

    @property
    def zarr_arguments(self) -> dict[str, Any]:
        """The same as arguments of zarr.create_array, whose chunks have the shape (1, T, H, W, 3)."""
        if self.name == "none":
            return {"serializer": BytesCodec(endian=None), "compressors": (Crc32cCodec(),)}
        if self.name == "jpeg":
            return {"serializer": JpegCodec(quality=self.quality), "compressors": (Crc32cCodec(),)}
        blosc = BloscCodec(cname="zstd", clevel=_BLOSC.clevel, shuffle="bitshuffle", typesize=1)
        return {"serializer": BytesCodec(endian=None), "compressors": (blosc, Crc32cCodec())}

    @classmethod
    def of_array(cls, array: "zarr.Array[Any]") -> "Codec":
        """The codec of a stored view, by its metadata. UserError for one that is none of these."""
        names = [type(codec) for codec in (*array.filters, array.serializer, *array.compressors)]
        if names in ([BytesCodec], [BytesCodec, Crc32cCodec]):
            return cls("none", checked=len(names) == 2)
        if names == [BytesCodec, BloscCodec, Crc32cCodec]:  # any Blosc: its data says how it was made
            return cls("blosc")
        if names == [JpegCodec, Crc32cCodec]:
            return cls("jpeg", cast(JpegCodec, array.serializer).quality)
        stored = ", ".join(name.__name__ for name in names)
        raise UserError(f"{array.store_path}: stored by {stored}; decode.codec knows none, blosc and jpeg")


@dataclass(frozen=True, kw_only=True)
class JpegCodec(ArrayBytesCodec):
    """Zarr's codec "hvg.jpeg": a chunk (1, T, H, W, 3) is one JPEG of T*H rows, without subsampling of colours.

    Registered by the entry point `zarr.codecs`, so that zarr.open_array reads such a store wherever this project is
    installed. Heights that are multiples of 8 keep every frame's blocks its own.
    """

    is_fixed_size = False
    quality: int

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> "JpegCodec":
        """The codec of an array's metadata."""
        _, configuration = parse_named_configuration(data, "hvg.jpeg")
        return cls(**cast("dict[str, Any]", configuration))

    def to_dict(self) -> dict[str, JSON]:
        """What an array's metadata says of it."""
        return {"name": "hvg.jpeg", "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frames = np.ascontiguousarray(chunk_data.as_numpy_array())[0]
        data = await asyncio.to_thread(encode_jpeg, frames, self.quality)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frames = await asyncio.to_thread(decode_jpeg, chunk_data.to_bytes(), chunk_spec.shape[1:])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frames[None])


def encode_jpeg(chunk: UInt8[np.ndarray, "T H W 3"], quality: int) -> bytes:
    """A chunk as one JPEG, frames one below the other. ValueError where it is too high for one."""
    frames, height, width, _ = chunk.shape
    if frames * height > JPEG_ROWS:
        raise ValueError(f"decode.codec: {frames} frames of {height} rows are above JPEG's {JPEG_ROWS} rows; use blosc")
    file = io.BytesIO()
    Image.fromarray(_flat(chunk).reshape(frames * height, width, 3)).save(
        file, "JPEG", quality=quality, subsampling="4:4:4"
    )
    return file.getvalue()


def decode_jpeg(data: bytes | memoryview, shape: tuple[int, ...]) -> UInt8[np.ndarray, "T H W 3"]:
    """The chunk (T, H, W, 3) that encode_jpeg made a JPEG. ValueError where it is another or none."""
    frames, height, width, _ = shape
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if (image.mode, image.size) != ("RGB", (width, frames * height)):
                raise ValueError(f"a damaged chunk: a JPEG of {image.size}, not {(width, frames * height)}")
            return np.asarray(image).reshape(shape)
    except (OSError, SyntaxError) as error:  # what Pillow raises of data that is cut off or no JPEG
        raise ValueError(f"a damaged chunk: {error}") from error


def _flat(chunk: np.ndarray) -> np.ndarray:
    assert chunk.dtype == np.uint8 and chunk.flags.c_contiguous
    return chunk.reshape(-1)

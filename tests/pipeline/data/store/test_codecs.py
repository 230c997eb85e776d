import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec

from pipeline.data.store.codecs import Codec, decode_jpeg, encode_jpeg
from pipeline.errors import UserError

CODECS = [Codec(), Codec("blosc"), Codec("jpeg", 90)]


def smooth(videos: int, frames: int, size: int) -> np.ndarray:
    """Videos [video, frame, size, size, 3] without noise, as JPEG expects, every frame another."""
    v, t, y, x, c = np.indices((videos, frames, size, size, 3))
    return ((v * 50 + t * 9 + y * 4 + x * 3) * (c + 1) // 3 % 200).clip(0, 255).astype(np.uint8)


def array(path, codec: Codec, videos: np.ndarray) -> zarr.Array:
    """Videos stored by zarr-python: two to a shard, chunks of 4 frames, two to a shard in time."""
    _, _, size, _, _ = videos.shape
    made = zarr.create_array(
        path,
        shape=videos.shape,
        dtype="uint8",
        chunks=(1, 4, size, size, 3),
        shards=(2, 8, size, size, 3),
        fill_value=0,
        **codec.zarr_arguments,
    )
    made[:] = videos
    return made


@pytest.mark.parametrize("codec", CODECS)
def test_a_plainly_opened_array_holds_what_the_codec_decodes(tmp_path, codec):
    videos = smooth(3, 10, 16)
    array(tmp_path / "a", codec, videos)
    opened = zarr.open_array(tmp_path / "a", mode="r")
    assert Codec.of_array(opened) == Codec(codec.name, codec.quality if codec.name == "jpeg" else 95)
    data = codec.encode(videos[1, 4:8])
    assert np.array_equal(codec.decode(data, 4, 16), opened[1, 4:8])


@pytest.mark.parametrize("codec", CODECS[:2])
def test_lossless_codecs_keep_every_byte(codec):
    chunk = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    assert np.array_equal(codec.decode(bytes(codec.encode(chunk)), 5, 6), chunk)


def test_jpeg_is_close_and_closer_with_quality():
    chunk = smooth(1, 12, 16)[0]
    errors = [
        np.abs(Codec("jpeg", quality).decode(Codec("jpeg", quality).encode(chunk), 12, 16).astype(int) - chunk).mean()
        for quality in (50, 80, 95)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2


def test_jpeg_keeps_frames_apart():
    chunk = np.zeros((3, 8, 8, 3), np.uint8)
    chunk[1] = 255
    decoded = Codec("jpeg", 95).decode(Codec("jpeg", 95).encode(chunk), 3, 8)
    assert np.array_equal(decoded, chunk)


@pytest.mark.parametrize("codec", CODECS)
def test_encoding_again_gives_the_same_bytes(codec):
    chunk = smooth(1, 4, 16)[0]
    assert bytes(codec.encode(chunk)) == bytes(codec.encode(chunk.copy()))


@pytest.mark.parametrize("codec", CODECS)
def test_any_damaged_byte_is_an_error(codec):
    data = bytes(codec.encode(smooth(1, 4, 16)[0]))
    for place in range(0, len(data), 7):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(ValueError, match="damaged chunk"):
            codec.decode(damaged, 4, 16)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("length", [0, 3, 40, -1])
def test_data_cut_off_is_an_error(codec, length):
    data = bytes(codec.encode(smooth(1, 4, 16)[0]))
    with pytest.raises(ValueError, match=r"damaged chunk|too short"):
        codec.decode(data[:length], 4, 16)


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_of_another_shape_is_an_error(codec):
    with pytest.raises(ValueError, match="damaged chunk"):
        codec.decode(bytes(codec.encode(smooth(1, 4, 16)[0])), 3, 16)


def test_a_wrong_jpeg_with_a_right_checksum_is_an_error():
    data = encode_jpeg(smooth(1, 4, 16)[0], 95)
    for wrong in (b"", b"no picture", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="damaged chunk"):
            decode_jpeg(wrong, (4, 16, 16, 3))


def test_jpeg_has_a_limit_of_rows():
    assert Codec("jpeg").encode(np.zeros((131, 500, 1, 3), np.uint8))  # 65,500 rows
    with pytest.raises(ValueError, match=r"65501 frames of 1 rows .* use blosc"):
        Codec("jpeg").encode(np.zeros((65_501, 1, 1, 3), np.uint8))


@pytest.mark.parametrize("compressors", [(GzipCodec(),), (BloscCodec(),)])
def test_other_codecs_are_named(tmp_path, compressors):
    made = zarr.create_array(tmp_path / "a", shape=(1, 4, 8, 8, 3), dtype="uint8", compressors=compressors)
    with pytest.raises(UserError, match=type(compressors[0]).__name__):
        Codec.of_array(made)

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr
from zarr.codecs import BytesCodec, GzipCodec

from pipeline.data.store import shard_reader
from pipeline.data.store.codecs import Codec
from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError

N_FRAMES = [22, 0, 9, 1, 13]  # of view 2; view 1 has every other
CODECS = [Codec(), Codec("blosc"), Codec("jpeg", 90)]
DIGEST = "d1"


def frames(level: int) -> np.ndarray:
    """View 1 (8x8) or 2 (16x16) of five videos, [video, frame, H, W, 3], 0 behind their ends; every frame another."""
    v, t, y, x, c = np.indices((5, 22, 16, 16, 3))
    top = ((1 + v * 37 + t * 11 + y * 4 + x * 3) * (c + 1) // 3 % 200 + 1).astype(np.uint8)
    top[t >= np.array(N_FRAMES)[:, None, None, None, None]] = 0
    return top if level == 2 else np.ascontiguousarray(top[:, ::2, ::2, ::2])


def write(folder: Path, top: dict[str, Any], low: dict[str, Any] | None = None) -> Path:
    """A store as zarr-python writes it: two videos and 8 frames of view 2 to a shard, 3 shards by 3."""
    zarr.create_group(folder, attributes={"classes": ["a", "b"], "digest": DIGEST, "kind": "pyramid"})
    for level, chunk, shard, arguments in ((2, 4, 8, top), (1, 2, 6, top if low is None else low)):
        videos = frames(level)
        size = videos.shape[2]
        array = zarr.create_array(
            folder,
            name=f"level-{level}",
            shape=videos.shape,
            dtype="uint8",
            chunks=(1, chunk, size, size, 3),
            shards=(2, shard, size, size, 3),
            fill_value=0,
            attributes={"time_factor": 3 - level},
            **arguments,
        )
        array[:] = videos
    index = {"row": [0, 2, 3, 4], "split": ["train", "val", "train", "train"], "label": [1, 0, 0, 1]}
    pd.DataFrame({**index, "n_frames": [22, 9, 1, 13]}).to_parquet(folder / "videos.parquet")
    return folder


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "s", Codec().zarr_arguments)


@pytest.fixture
def remote(tmp_path):
    """(folder of the out, folder behind the URL) of a store whose arrays lie elsewhere."""
    there = write(tmp_path / "there", Codec().zarr_arguments)
    return point(tmp_path / "out", f"file://{there}", there), there


def point(out: Path, url: str, there: Path) -> Path:
    out.mkdir()
    shutil.move(there / "videos.parquet", out / "videos.parquet")
    (out / "store.json").write_text(json.dumps({"url": url, "digest": DIGEST, "files": {}}))
    return out


def every_window(reader: ViewReader):
    for video, n_frames in enumerate(reader.n_frames):
        for start in range(n_frames):
            for count in range(1, n_frames - start + 1):
                yield video, start, count


def shard(folder: Path, level: int = 2, row: int = 0, number: int = 0) -> Path:
    return folder / f"level-{level}" / "c" / str(row) / str(number) / "0" / "0" / "0"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("level", [1, 2])
def test_every_window_is_what_zarr_reads(tmp_path, codec, level):
    path = write(tmp_path / "s", codec.zarr_arguments)
    stored = np.asarray(zarr.open_array(path / f"level-{level}", mode="r"))
    if not codec.lossy:
        assert np.array_equal(stored, frames(level))
    reader = ViewReader(path, level, in_memory=0)
    for video, start, count in every_window(reader):
        assert np.array_equal(reader.read(video, start, count), stored[reader.rows[video], start : start + count])


@pytest.mark.parametrize("in_memory", [0, 2**31])
@pytest.mark.parametrize("codec", CODECS)
def test_reader_gives_the_frames_of_its_view(tmp_path, codec, in_memory):
    path = write(tmp_path / "s", codec.zarr_arguments, Codec().zarr_arguments)
    reader = ViewReader(path, 1, "train", in_memory=in_memory)
    assert len(reader) == 3
    assert reader.rows.tolist() == [0, 3, 4]
    assert reader.labels.tolist() == [1, 0, 1]
    assert reader.n_frames.tolist() == [11, 1, 7]
    assert reader.top_frames.tolist() == [22, 1, 13]
    assert reader.classes == ("a", "b")
    assert (reader.size, reader.digest) == (8, DIGEST)
    assert np.array_equal(reader.read(2, 1, 6), frames(1)[4, 1:7])
    stored = np.asarray(zarr.open_array(path / "level-2", mode="r"))
    assert np.array_equal(ViewReader(path, 2, in_memory=in_memory).read(1, 2, 7), stored[2, 2:9])


def test_what_was_read_is_the_readers_own(raw):
    for in_memory in (0, 2**31):
        reader = ViewReader(raw, 2, in_memory=in_memory)
        reader.read(0, 3, 4)[:] = 7
        assert np.array_equal(reader.read(0, 3, 4), frames(2)[0, 3:7])


def test_chunks_of_zeros_that_zarr_left_out_are_zeros(tmp_path):
    path = write(tmp_path / "s", Codec().zarr_arguments)
    array = zarr.open_array(path / "level-2", mode="r+")
    array[0, 4:8] = 0
    reader = ViewReader(path, 2, in_memory=0)
    expected = frames(2)[0, :12]
    expected[4:8] = 0
    assert np.array_equal(reader.read(0, 0, 12), expected)


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 12), (11, 1), (0, 0)])
def test_reader_refuses_what_a_video_has_not(raw, start, count):
    with pytest.raises(ValueError, match="of video 0, which has 11"):
        ViewReader(raw, 1).read(0, start, count)


def test_reader_names_what_is_not_there(raw, tmp_path):
    with pytest.raises(UserError, match="no finished store"):
        ViewReader(tmp_path / "other", 1)
    with pytest.raises(UserError, match="no level 3"):
        ViewReader(raw, 3)
    with pytest.raises(UserError, match="split 'test'"):
        ViewReader(raw, 1, "test")
    (raw / "zarr.json").unlink()
    with pytest.raises(UserError, match="no finished store"):
        ViewReader(raw, 1)


def test_a_lost_shard_is_an_error(raw):
    shard(raw, number=1).unlink()
    reader = ViewReader(raw, 2, in_memory=0)
    assert np.array_equal(reader.read(0, 0, 8), frames(2)[0, :8])
    with pytest.raises(UserError, match=rf"{shard(raw, number=1)}: lost from the store"):
        reader.read(0, 7, 2)
    with pytest.raises(UserError, match="lost from the store"):
        ViewReader(raw, 2)  # into memory


@pytest.mark.parametrize("kept", [0, 50, 0.5, 0.99])
@pytest.mark.parametrize("codec", CODECS)
def test_a_truncated_shard_is_an_error(tmp_path, codec, kept):
    file = shard(write(tmp_path / "s", codec.zarr_arguments))
    os.truncate(file, kept if kept >= 1 else int(file.stat().st_size * kept))
    with pytest.raises(UserError, match=f"{file}: damaged, .*index"):
        ViewReader(tmp_path / "s", 2, in_memory=0).read(0, 0, 1)


def test_a_shard_that_ends_after_its_index_was_read_is_an_error(raw):
    reader = ViewReader(raw, 2, in_memory=0)
    reader.read(0, 0, 1)
    os.truncate(shard(raw), 5000)
    with pytest.raises(UserError, match=f"{shard(raw)}: damaged, it ends before byte"):
        reader.read(0, 6, 2)


def test_every_byte_of_an_index_counts(raw):
    data = shard(raw).read_bytes()
    for place in range(1, 2 * 2 * 16 + 4 + 1):
        damaged = bytearray(data)
        damaged[-place] ^= 1
        shard(raw).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{shard(raw)}: damaged, its index"):
            ViewReader(raw, 2, in_memory=0).read(0, 0, 1)


@pytest.mark.parametrize(
    ("entry", "message"), [((10**7, 3072), "behind its end"), ((0, 10**7), "behind its end"), ((0, 3071), "size")]
)
def test_an_index_is_checked_beyond_its_checksum(raw, entry, message):
    data = shard(raw).read_bytes()
    index = np.frombuffer(data[-68:-4], "<u8").copy()
    index[:2] = entry
    checksum = np.asarray(shard_reader.google_crc32c.value(index.tobytes()), "<u4")
    shard(raw).write_bytes(data[:-68] + index.tobytes() + checksum.tobytes())
    with pytest.raises(UserError, match=f"its index names chunks .*{message}"):
        ViewReader(raw, 2, in_memory=0).read(0, 0, 1)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_chunk_is_an_error_and_its_neighbours_are_not(tmp_path, codec):
    path = write(tmp_path / "s", codec.zarr_arguments)
    good = ViewReader(path, 2, in_memory=0).read(0, 0, 8)
    data = bytearray(shard(path).read_bytes())
    offset, length = np.frombuffer(data[-68:-4], "<u8").reshape(2, 2, 2)[0, 1]
    data[int(offset + length // 2)] ^= 0xFF
    shard(path).write_bytes(data)
    reader = ViewReader(path, 2, in_memory=0)
    assert np.array_equal(reader.read(0, 0, 4), good[:4])
    for start, count in ((3, 2), (7, 1)):
        with pytest.raises(UserError, match=f"{shard(path)}: damaged, at byte {offset}"):
            reader.read(0, start, count)
    with pytest.raises(UserError, match=f"{shard(path)}: damaged, at byte {offset}"):
        ViewReader(path, 2)  # into memory


def test_raw_chunks_of_an_earlier_version_have_no_checksum_and_are_read(tmp_path):
    path = write(tmp_path / "s", {"serializer": BytesCodec(endian=None), "compressors": None})
    reader = ViewReader(path, 2, in_memory=0)
    assert reader.codec == Codec(checked=False)
    for video, start, count in every_window(reader):
        assert np.array_equal(reader.read(video, start, count), frames_of(reader, video, start, count))


def test_other_stores_are_refused(tmp_path):
    path = write(tmp_path / "s", {"compressors": GzipCodec()}, {"filters": None})  # zstd is Zarr's default
    for level, codec in ((2, "GzipCodec"), (1, "ZstdCodec")):
        with pytest.raises(UserError, match=rf"level-{level}: stored by .*{codec}; decode\.codec knows"):
            ViewReader(path, level, in_memory=0)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_threads_share_a_reader_with_few_open_files(raw, monkeypatch):
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 2)
    reader = ViewReader(raw, 2, in_memory=0)
    before = open_files()
    windows = list(every_window(reader)) * 5
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda window: reader.read(*window), windows)
        for (video, start, count), window in zip(windows, found, strict=True):
            assert np.array_equal(window, frames_of(reader, video, start, count))
    assert open_files() - before <= 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_a_reader_that_is_gone_leaves_no_open_files(raw):
    before = open_files()
    reader = ViewReader(raw, 2, in_memory=0)
    reader.read(0, 0, 22)
    assert open_files() == before + 3
    del reader
    assert open_files() == before


TOP = frames(2)


def frames_of(reader: ViewReader, video: int, start: int, count: int) -> np.ndarray:
    return TOP[reader.rows[video], start : start + count]


@pytest.mark.parametrize("in_memory", [0, 2**31])
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_arrays_may_lie_at_a_url(tmp_path, scheme, in_memory):
    there = write(tmp_path / "there", Codec("jpeg", 90).zarr_arguments, Codec().zarr_arguments)
    stored = np.asarray(zarr.open_array(there / "level-2", mode="r"))
    url = f"file://{there}"
    if scheme == "memory":
        url = f"memory://{tmp_path.name}-{in_memory}"
        fsspec.filesystem("memory").put(str(there), url, recursive=True)
    path = point(tmp_path / "out", url, there)
    if scheme == "memory":
        shutil.rmtree(there)
    low, top = (ViewReader(path, level, "train", in_memory=in_memory) for level in (1, 2))
    assert low.digest == DIGEST and low.classes == ("a", "b")
    for video, start, count in every_window(low):
        assert np.array_equal(low.read(video, start, count), frames(1)[low.rows[video], start : start + count])
    assert np.array_equal(top.read(0, 3, 18), stored[0, 3:21])


def test_what_lacks_at_a_url_is_an_error(remote):
    path, there = remote
    shard(there).unlink()
    with pytest.raises(UserError, match="level-2/c/0/0/0/0/0: lost"):
        ViewReader(path, 2, in_memory=0).read(0, 0, 1)
    with pytest.raises(UserError, match="level-2/c/0/0/0/0/0: lost"):
        ViewReader(path, 2)
    zarr.open_group(there, mode="r+").attrs.update({"digest": "another"})
    with pytest.raises(UserError, match="holds another store"):
        ViewReader(path, 2)
    shutil.rmtree(there)
    with pytest.raises(UserError, match=f"decode.store file://{there}: no store there"):
        ViewReader(path, 2)


def test_a_url_out_of_reach_has_its_own_way_out(remote, monkeypatch):
    path, there = remote

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(zarr, "open_group", unreachable)
    with pytest.raises(
        UserError, match=rf"ConnectionError: no route to host\); see that file://{there} can be"
    ) as told:
        ViewReader(path, 2)
    assert str(path) in str(told.value) and "dvc" not in str(told.value)


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_url_that_needs_a_package_names_it(remote):
    path, _ = remote
    (path / "store.json").write_text(json.dumps({"url": "s3://bucket/x", "digest": DIGEST, "files": {}}))
    with pytest.raises(UserError, match=r"decode.store s3://bucket/x: .*s3fs"):
        ViewReader(path, 2)

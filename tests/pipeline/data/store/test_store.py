import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from pipeline.data.store.writer import StoreWriter, frame_bounds
from pipeline.system.values import fingerprint


def make(path: Path) -> StoreWriter:
    return StoreWriter(path, views={1: (500, 2), 2: (1000, 4)}, videos=5, shard_videos=2)


def videos(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8) for n in (3, 300, 0, 12, 1)]


def index() -> pd.DataFrame:
    return pd.DataFrame({"row": [0, 1, 3, 4], "split": "train", "label": [0, 1, 1, 0], "n_frames": [3, 300, 12, 1]})


def empty(count: int) -> dict[int, list[np.ndarray]]:
    return {level: [np.zeros((1, size, size, 3), np.uint8)] * count for level, size in ((1, 2), (2, 4))}


def fill(writer: StoreWriter, shards=(0, 2, 4)) -> None:
    for first in shards:
        low, top = (videos(size)[first : first + 2] for size in (2, 4))
        writer.write(first, {1: [video[::2] for video in low], 2: top})


def tree(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_what_was_written_is_read_by_plain_zarr(tmp_path):
    writer = make(tmp_path / "s")
    fill(writer)
    digest = writer.finish(index(), kind="pyramid", classes=["a", "b"], frame_step=2)
    group = zarr.open_group(tmp_path / "s", mode="r")
    said = dict(group.attrs)
    assert said.pop("checksum") == fingerprint(said)
    assert said.pop("table") == hashlib.sha256((tmp_path / "s" / "videos.parquet").read_bytes()).hexdigest()
    assert said == {"kind": "pyramid", "classes": ["a", "b"], "frame_step": 2, "digest": digest}
    assert np.asarray(group["n_frames"]).tolist() == [3, 300, 0, 12, 1]
    assert np.asarray(group["labels"]).tolist() == [0, 1, -1, 1, 0]
    top = group["level-2"]
    assert isinstance(top, zarr.Array)
    assert top.shape == (5, 300, 4, 4, 3)
    assert top.chunks == (1, 12, 4, 4, 3)
    assert group["level-1"].shape == (5, 150, 2, 2, 3)  # pyright: ignore[reportAttributeAccessIssue]
    for row, video in enumerate(videos(4)):
        read = np.asarray(top[row])
        assert np.array_equal(read[: len(video)], video)
        assert not read[len(video) :].any()
    # 300 frames are two shards of 240 in time; the other shards end before the second.
    assert (tmp_path / "s/level-2/c/0/1/0/0/0").is_file()
    assert not (tmp_path / "s/level-2/c/1/1").exists()


def test_only_whole_shards_are_written(tmp_path):
    writer = make(tmp_path / "s")
    for first, count in ((0, 1), (1, 2), (4, 2), (6, 1), (-2, 2)):
        with pytest.raises(ValueError, match="shard"):
            writer.write(first, empty(count))
    with pytest.raises(ValueError, match="shard"):
        writer.write(0, {2: empty(2)[2]})
    assert not any(map(writer.done, (0, 2, 4)))
    assert not list((tmp_path / "s").rglob("c"))


def test_other_frames_are_refused(tmp_path):
    writer = make(tmp_path / "s")
    for wrong in (
        np.zeros((2, 1, 2, 2, 3), np.uint8),
        np.zeros((2, 1, 4, 4, 3), np.float32),
        np.zeros((2, 1001, 4, 4, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match="level 2 takes"):
            writer.write(0, {1: empty(2)[1], 2: list(wrong)})


def test_an_unfinished_store_is_not_finished(tmp_path):
    writer = make(tmp_path / "s")
    fill(writer, (0, 4))
    with pytest.raises(ValueError, match="1 shards are not written, the first from row 2"):
        writer.finish(index(), kind="pyramid", classes=[])


def test_a_restart_ends_with_the_same_bytes(tmp_path):
    whole = make(tmp_path / "whole")
    fill(whole)
    whole.finish(index(), kind="pyramid", classes=["a", "b"])

    first = make(tmp_path / "again")
    fill(first, (2,))
    longer = {1: [np.full((450, 2, 2, 3), 7, np.uint8)] * 2, 2: [np.full((900, 4, 4, 3), 7, np.uint8)] * 2}
    first.write(0, longer)  # …than it will be: cut off before its note was written
    first.forget(0)
    with pytest.raises(RuntimeError), first.shard(4) as shard:
        shard.begin(0)
        shard.append(2, longer[2][0][:12])
        raise RuntimeError
    folder = tmp_path / "again.shards/00000004-0"  # and what a killed writer leaves
    folder.mkdir()
    (folder / "level-2-0").write_bytes(b"x")
    second = make(tmp_path / "again")
    assert [second.done(row) for row in (0, 2, 4)] == [False, True, False]
    fill(second, (4, 0))
    second.finish(index(), kind="pyramid", classes=["a", "b"])
    assert tree(tmp_path / "again") == tree(tmp_path / "whole")

    third = make(tmp_path / "again")  # cut off before it was published: nothing is done again
    assert all(map(third.done, (0, 2, 4)))
    third.finish(index(), kind="pyramid", classes=["a", "b"])
    assert tree(tmp_path / "again") == tree(tmp_path / "whole")

    (tmp_path / "again").rename(tmp_path / "published")
    assert not any(map(make(tmp_path / "again").done, (0, 2, 4)))


def test_the_digest_is_that_of_the_content(tmp_path):
    digests = []
    for name, label in (("a", 0), ("b", 0), ("c", 1)):
        writer = make(tmp_path / name)
        fill(writer)
        digests.append(writer.finish(index().assign(label=label), kind="pyramid", classes=["a", "b"]))
    assert digests[0] == digests[1] != digests[2]
    changed = make(tmp_path / "d")
    fill(changed, (0, 2))
    changed.write(4, empty(1))
    assert changed.finish(index().assign(label=0), kind="pyramid", classes=["a", "b"]) != digests[0]


def test_frames_that_are_no_multiple_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no multiple"):
        StoreWriter(tmp_path / "t", views={1: (3, 2), 2: (10, 4)}, videos=6, shard_videos=2)


def test_bounds_are_whole_in_every_view():
    assert frame_bounds(15, (2, 3)) == {1: 3, 2: 6, 3: 18}
    assert frame_bounds(12, ()) == {1: 12}

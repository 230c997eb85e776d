import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import zarr
from ruamel.yaml import YAML

from pipeline.data import decode_pool
from pipeline.data.decode import decode
from pipeline.data.decode_pool import STOPPED, Decoding, Shard, decode_one, decode_shards
from pipeline.data.layouts.listing import prepare_listing, read_listing
from pipeline.data.predict import listed_videos, predict
from pipeline.data.shapes_files import encode
from pipeline.data.store.writer import StoreWriter
from pipeline.errors import UserError
from pipeline.params import Params, parse_params
from pipeline.paths import Paths
from tests.pipeline.data.video.test_images import images

PROJECT = Path(__file__).parents[3]


def raw_params(**decode_params: Any) -> dict[str, Any]:
    raw = YAML(typ="safe").load(PROJECT / "recipes" / "shapes.yaml")
    raw["shapes"] = {}
    raw["data"] = {
        "layout": "folder",
        "root": "videos",
        "listing": "data/listing.csv",
        "classes": None,
        "mirror": False,
        "image_rate": None,
        "attribute": None,
    }
    raw["decode"] |= {"shard_videos": 2, **decode_params}
    return raw


def params(**decode_params: Any) -> Params:
    return parse_params(raw_params(**decode_params))


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def film(path: Path, frames: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (frames, 6, 10, 3), dtype=np.uint8)
    encode(small.repeat(8, 1).repeat(8, 2), path, 10)


@pytest.fixture
def project(tmp_path):
    """Five videos and one that is none, of two classes."""
    for number, frames in enumerate((40, 21, 33, 7)):
        film(tmp_path / "videos" / "train" / "ab"[number % 2] / f"{number}.mp4", frames, number)
    film(tmp_path / "videos" / "val" / "b" / "4.mp4", 20)
    (tmp_path / "videos" / "train" / "a" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "videos" / "loose.mp4").write_bytes(b"x")
    prepare_listing(params(), Paths(tmp_path))
    return Paths(tmp_path)


def test_the_pyramid(project):
    decode(params(max_failed=0.2), project, 2)
    group = zarr.open_group(project.pyramid, mode="r")
    low, top = np.asarray(group["level-1"]), np.asarray(group["level-2"])
    assert low.shape == (6, 10, 16, 16, 3)
    assert top.shape == (6, 20, 32, 32, 3)
    # train/a/0, train/a/2, train/a/broken, train/b/1, train/b/3, val/b/4; every second frame
    frames = [20, 17, 0, 11, 4, 10]
    assert np.asarray(group["n_frames"]).tolist() == frames
    assert np.asarray(group["labels"]).tolist() == [0, 0, -1, 1, 1, 1]
    assert group.attrs["classes"] == ["a", "b"]
    assert group.attrs["kind"] == "pyramid"
    for row, count in enumerate(frames):
        tensor = torch.from_numpy(top[row, :count:2]).permute(0, 3, 1, 2)
        if count:
            expected = F.interpolate(tensor, (16, 16), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(low[row, : len(expected)], expected)
        assert not top[row, count:].any()
        assert not low[row, -(-count // 2) :].any()
    table = pd.read_parquet(project.pyramid / "videos.parquet")
    assert table["row"].tolist() == [0, 1, 3, 4, 5]
    assert table["split"].tolist() == ["train"] * 4 + ["val"]
    assert table.loc[0, ["path", "class", "label", "width", "height", "fps"]].tolist() == [
        *("train/a/0.mp4", "a", 0),
        *(80, 48, 10.0),
    ]
    failed = pd.read_csv(project.pyramid / "failed.csv")
    assert failed["path"].tolist() == ["train/a/broken.mp4"]
    assert failed["reason"].str.contains("not a readable video").all()
    assert pd.read_csv(project.pyramid / "unlisted.csv")["path"].tolist() == ["loose.mp4"]
    assert len(pd.read_csv(project.pyramid / "missing.csv")) == 0
    assert not list((project.state / "work").iterdir())


def test_frames_a_second_in_place_of_a_step(project):
    chosen = params(max_failed=0.2, frame_step=None, fps=4)  # of films of 10 a second
    decode(chosen, project, 1)
    group = zarr.open_group(project.pyramid, mode="r")
    assert (group.attrs["fps"], group.attrs["frame_step"]) == (4, None)
    # Of 40, 33, broken, 21, 7 and 20 frames: 4, 3.3, 2.1, 0.7 and 2 seconds, the last begun.
    assert np.asarray(group["n_frames"]).tolist() == [16, 14, 0, 9, 3, 8]
    found = predict(chosen, project, listed_videos(chosen, project), ["none"])
    assert (found.frames, found.left_out) == (16 + 14 + 9 + 3 + 8, 1)


def test_folders_of_images(tmp_path):
    for name, count in (("a/long", 30), ("a/short", 12), ("b/hole", 12), ("b/link", 12)):
        images(tmp_path / "videos" / name, "{:03d}.png", range(1, 1 + count))
    for name in ("hole", "link"):
        (tmp_path / "videos" / "b" / name / "005.png").unlink()
    (tmp_path / "videos" / "b" / "link" / "005.png").symlink_to("nowhere")
    raw, paths = raw_params(max_failed=0.5), Paths(tmp_path)
    raw["data"]["image_rate"] = 20
    chosen = parse_params(raw)
    assert prepare_listing(chosen, paths) and len(read_listing(tmp_path / "data/listing.csv")) == 30 + 12 + 11 + 11
    found = predict(chosen, paths, listed_videos(chosen, paths), ["none"])
    assert (found.videos, found.frames, found.left_out) == (4, 15 + 6, 2)
    decode(chosen, paths, 1)
    table = pd.read_parquet(paths.pyramid / "videos.parquet")
    assert table[["path", "n_frames", "fps", "seconds"]].to_numpy().tolist() == [
        *(["a/long", 15, 20.0, 1.5], ["a/short", 6, 20.0, 0.6])
    ]
    hole, link = pd.read_csv(paths.pyramid / "failed.csv")["reason"]
    assert hole.startswith("no image 005.png, but 006.png")
    assert link == "005.png: cannot be opened: no such file or directory"
    # Two images change their places: no folder has another size, and yet it is another video.
    first, second = (tmp_path / "videos" / "a" / "short" / f"{number:03d}.png" for number in (1, 11))
    before = np.asarray(zarr.open_group(paths.pyramid, mode="r")["level-2"])[1]
    first.rename(tmp_path / "kept.png")
    second.rename(first)
    (tmp_path / "kept.png").rename(second)
    os.utime(first)
    assert prepare_listing(chosen, paths)
    decode(chosen, paths, 1)
    after = np.asarray(zarr.open_group(paths.pyramid, mode="r")["level-2"])[1]
    assert (after[[0, 5]] == before[[5, 0]]).all() and (after[1:5] == before[1:5]).all()
    raw["data"]["image_rate"] = 10
    decode(parse_params(raw), paths, 1)
    assert pd.read_parquet(paths.pyramid / "videos.parquet")["fps"].tolist() == [10, 10]
    first.write_bytes(b"smaller")
    with pytest.raises(UserError, match=r"1 of 64 files under .* the first a/short/001\.png; `hvg index`"):
        decode(chosen, paths, 1)


def test_too_many_failures(project, monkeypatch):
    with pytest.raises(UserError, match=r"1 of 6 videos .* decode\.max_failed allows 10%: train/a/broken.mp4: not a"):
        decode(params(max_failed=0.1), project, 1)
    assert not project.pyramid.exists()
    (failed,) = (project.state / "work").glob("decode-*/failed.csv")
    assert failed.read_text().count("\n") == 2
    monkeypatch.setattr(decode_pool, "_Worker", None)  # nothing is decoded again for another limit
    decode(params(max_failed=0.5), project, 1)
    assert project.pyramid.is_dir()


def test_short_videos_are_left_out_and_listed(project):
    """20, 17, 11, 4 and 10 frames of the top view; a short one is no failure."""
    decode(params(max_failed=0.2, min_frames=11), project, 1)
    table = pd.read_parquet(project.pyramid / "videos.parquet")
    assert dict(zip(table["path"], table["n_frames"], strict=True)) == {
        "train/a/0.mp4": 20,
        "train/a/2.mp4": 17,
        "train/b/1.mp4": 11,
    }
    short = pd.read_csv(project.pyramid / "short.csv")
    assert short["path"].tolist() == ["train/b/3.mp4", "val/b/4.mp4"]
    assert short.loc[0, "reason"] == "4 frames, fewer than decode.min_frames, 11"
    top = zarr.open_array(project.pyramid, path="level-2", mode="r")
    assert not np.asarray(top[4]).any()
    assert len(pd.read_csv(project.pyramid / "failed.csv")) == 1
    with pytest.raises(UserError, match="every video has fewer than 30 frames"):
        decode(params(max_failed=0.2, min_frames=30), project, 1)


@pytest.mark.parametrize("codec", ["blosc", "jpeg"])
def test_codecs_of_the_pyramid(project, codec):
    decode(params(max_failed=0.2), project, 1)
    plain = [np.asarray(zarr.open_array(project.pyramid, path=f"level-{level}", mode="r")) for level in (1, 2)]
    decode(params(max_failed=0.2, codec=codec), project, 1)
    low, top = (np.asarray(zarr.open_array(project.pyramid, path=f"level-{level}", mode="r")) for level in (1, 2))
    if codec == "blosc":
        assert np.array_equal(low, plain[0])
        assert np.array_equal(top, plain[1])
    else:
        difference = np.abs(top.astype(int) - plain[1])
        assert 0 < difference.mean() < 8
    tensor = torch.from_numpy(top[0, ::2].copy()).permute(0, 3, 1, 2)
    expected = F.interpolate(tensor, (16, 16), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(low[0], expected)


def test_changed_files_need_a_new_listing(project):
    film(project.root / "videos/train/a/0.mp4", 11)
    with pytest.raises(UserError, match=r"1 of 6 files .* the first train/a/0\.mp4; `hvg index`"):
        decode(params(), project, 1)


def test_an_ffmpeg_that_goes_away_is_not_the_disks_fault(tmp_path, monkeypatch):
    """No OSError, which would be the store's."""
    film(tmp_path / "a.mp4", 8)
    decoding = Decoding(params(engine="ffmpeg"), tmp_path, tmp_path, 1)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    with decoding.writer().shard(0) as files:
        facts = decode_one(decoding, "a.mp4", files, 0)
    assert (facts["status"], facts["reason"]) == (STOPPED, "ffmpeg does not start: no such file or directory")


class Sabotage(type(Path())):
    """A root that kills or hangs the worker which opens a certain video under it, or fills its disk."""

    def __truediv__(self, key: Any) -> Path:
        if "crash" in str(key):
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in str(key):
            time.sleep(1000)
        if "full" in str(key):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Path(str(self)) / key


def test_a_crash_or_a_hang_costs_one_video(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "GRACE_SECONDS", 0.5)
    names = ("a.mp4", "crash.mp4", "c.mp4", "hang.mp4")
    for number, name in enumerate(names):
        film(tmp_path / "v" / name, 8, number)
    decoding = Decoding(params(timeout=10), Sabotage(tmp_path / "v"), tmp_path, 4)
    decode_shards([Shard(0, names[:2]), Shard(2, names[2:])], decoding, 2)
    facts = [fact for row in (0, 2) for fact in decoding.writer().facts(row)]
    assert [fact["n_frames"] for fact in facts] == [4, 0, 4, 0]
    assert [fact["reason"] for fact in facts] == [
        "",
        "the decoder crashed (exit code -11)",
        "",
        "the decoder hung",
    ]
    assert decoding.writer().done(0)
    assert decoding.writer().done(2)


def test_a_full_disk_costs_no_video(tmp_path):
    decoding = Decoding(params(), Sabotage(tmp_path / "v"), tmp_path, 4)
    with pytest.raises(UserError, match="cannot be written: No space left on device; mend it"):
        decode_shards([Shard(0, ("full.mp4", "b.mp4")), Shard(2, ("c.mp4", "d.mp4"))], decoding, 2)
    assert not decoding.writer().done(0)


class Dying(Decoding):
    """Workers that die while they decode nothing, each of the signal that the root is named after."""

    def writer(self) -> StoreWriter:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.Signals[self.root.name])
        return super().writer()


@pytest.mark.parametrize(("name", "hint"), [("SIGKILL", True), ("SIGSEGV", False)])
def test_memory_is_suspected_only_where_the_system_kills(tmp_path, name, hint):
    decoding = Dying(params(), tmp_path / name, tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"died .* not while it decoded") as died:
        decode_shards([Shard(0, ("a.mp4",))], decoding, 1)
    assert ("memory" in str(died.value)) == hint

"""hvg metrics on arrays, stores and folders of videos, and what it refuses with which way out."""

import io
import json
import os
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from models.i3d import I3D
from pipeline.cli import cli
from pipeline.data.video.errors import VideoError
from pipeline.errors import UserError
from pipeline.media.video import write_mp4
from pipeline.metrics import arrays, compare_sets, evaluation, sides, statistics
from pipeline.metrics import measured as measuring
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import as_text, compare
from pipeline.metrics.measured import FeatureNetworks
from pipeline.metrics.sides import Draw
from pipeline.metrics.statistics import read_statistics
from tests.pipeline.metrics.tiny import tiny_network
from tests.stages.fake_project import make_project, moving

KNOWN = FeatureNetworks(tiny_network(0, "ab" * 32), tiny_network(1, "cd" * 32))


def videos(n: int, frames: int = 10, size: int = 16, first: int = 0) -> np.ndarray:
    return np.stack([moving(first + i, frames, size) for i in range(n)])


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def images(root: Path, frames: np.ndarray, name: str = "{:05d}.png") -> Path:
    """Videos as folders of images, numbered from 1."""
    for video, folder in zip(frames, map(str, range(len(frames))), strict=True):
        (root / "class" / folder).mkdir(parents=True)
        for number, frame in enumerate(video, 1):
            Image.fromarray(frame).save(root / "class" / folder / name.format(number))
    return root


def measured(real: Path, generated: Path, networks: FeatureNetworks = KNOWN, **given) -> dict:
    return compare(networks, open_set(real), open_set(generated), **given)


def test_the_same_array_is_at_no_distance_and_npz_is_read(tmp_path):
    a = saved(tmp_path / "a.npy", videos(6))
    np.savez(tmp_path / "b.npz", videos(6))
    found = measured(a, tmp_path / "b.npz", splits=2)
    assert found["fvd"] < 1e-6 and found["fid"] < 1e-6
    assert found["inception_score"] >= 1 and found["inception_score_deviation"] >= 0
    assert found["note"] is None
    protocol = found["protocol"]
    assert (protocol["real_videos"], protocol["frames"], protocol["size"], protocol["splits"]) == (6, 10, 16, 2)
    assert protocol["logits_sha256"] == "ab" * 32 and protocol["covariance"] == "N - 1, float64"
    other = measured(a, saved(tmp_path / "c.npy", videos(6, first=40)))
    assert other["fvd"] > 1e-3


def test_no_motion_is_measured_that_nobody_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "frame_differences", lambda _: pytest.fail("motion is measured"))
    a = saved(tmp_path / "a.npy", videos(3))
    measured(a, a)


def test_random_weights_leave_the_famous_names_empty(tmp_path):
    a = saved(tmp_path / "a.npy", videos(3))
    found = measured(a, a, FeatureNetworks(tiny_network()))
    assert found["fvd"] is found["fid"] is found["inception_score"] is None
    assert {"random_i3d_frechet_logits", "random_i3d_frechet_pooled"} <= set(found)
    assert "fetch-i3d" in found["note"] and "--i3d-k600" in found["note"]
    text = as_text(found)
    assert "random_i3d_frechet_logits" in text and "real_videos" in text and found["note"] in text


def test_lengths_follow_generated_and_longer_videos_give_their_first_frames(tmp_path):
    long, short = saved(tmp_path / "long.npy", videos(4, 14)), saved(tmp_path / "short.npy", videos(4, 14)[:, :9])
    assert measured(long, short)["fvd"] < 1e-6
    with pytest.raises(UserError, match=r"fewer than 2 videos of 14 frames, the longest has 9; --frames"):
        measured(short, long)
    assert measured(short, long, frames=9)["fvd"] < 1e-6


def test_frames_of_another_size_are_scaled_as_pil_does_and_that_is_told(tmp_path, caplog):
    large = np.random.default_rng(0).integers(0, 256, (3, 9, 32, 32, 3), np.uint8)
    small, other = saved(tmp_path / "s.npy", videos(3, 9)), saved(tmp_path / "l.npy", large)
    found = measured(other, small)["protocol"]
    assert (found["size"], found["real_scaling"]) == (16, "32x32, scaled to 16 (PIL's bilinear)")
    assert found["generated_scaling"] == "16x16" and "REAL" in caplog.text and "32x32, scaled to 16" in caplog.text
    clips = np.stack(list(open_set(other).clips(9, 16)))
    scaled = np.stack(
        [
            [np.asarray(Image.fromarray(frame).resize((16, 16), Image.Resampling.BILINEAR)) for frame in video]
            for video in large
        ]
    )
    assert np.abs(clips.astype(int) - scaled).max() <= 1 and clips.shape == (3, 9, 16, 16, 3)


def test_a_folder_is_scaled_to_the_other_side_whichever_it_is(tmp_path):
    array = saved(tmp_path / "a.npy", videos(3, 9))
    (tmp_path / "videos").mkdir()
    for i, video in enumerate(videos(3, 9, 64)):
        write_mp4(tmp_path / "videos" / f"{i}.mp4", video, 24)
    for real, generated in ((array, tmp_path / "videos"), (tmp_path / "videos", array)):
        assert measured(real, generated)["protocol"]["size"] == 16
        assert measured(real, generated, size=32)["protocol"]["size"] == 32


@pytest.mark.parametrize("shape", [(24, 33), (33, 24)])
def test_of_rectangles_the_square_in_the_middle_is_measured(tmp_path, shape):
    frames = np.random.default_rng(0).integers(0, 256, (3, 9, *shape, 3), np.uint8)
    array = saved(tmp_path / "a.npy", frames)
    middle = frames[:, :, :, 4:28] if shape == (24, 33) else frames[:, :, 4:28]
    assert np.array_equal(np.stack(list(open_set(array).clips(9, 24))), middle)
    found = measured(array, saved(tmp_path / "b.npy", middle))
    assert found["fvd"] < 1e-6
    assert found["protocol"]["real_scaling"] == f"{shape[1]}x{shape[0]}, the square in the middle"
    folder = images(tmp_path / "images", frames)
    assert np.array_equal(np.stack(list(open_set(folder).clips(9, 24))), middle)  # the same pixels as in files


@pytest.mark.parametrize("name", ["{:05d}.png", "{}.png", "frame_{:03d}.png"])
def test_folders_of_numbered_images_are_videos(tmp_path, name):
    frames = videos(3, 12)
    folder = images(tmp_path / "images", frames, name)
    (folder / "class" / "1" / "notes.txt").touch()
    side = open_set(folder)
    assert side.what == "folder of 3 videos, 3 of them folders of images"
    assert np.array_equal(np.stack(list(side.clips(12, 16))), frames) and side.rate is None
    assert np.array_equal(np.stack(list(open_set(folder, frame_step=3).clips(4, 16))), frames[:, ::3])
    brought = open_set(folder, fps=7.0)  # they say no rate: it is theirs
    assert np.array_equal(np.stack(list(brought.clips(12, 16))), frames) and brought.rate == 7
    found = measured(folder, saved(tmp_path / "a.npy", frames))
    assert found["fvd"] < 1e-6 and (found["protocol"]["size"], found["protocol"]["frames"]) == (16, 12)
    before = side.digest
    last = next((folder / "class" / "2").glob("*12.png"))
    last.write_bytes(last.read_bytes() + b"0")
    assert open_set(folder).digest != before
    last.unlink()
    assert open_set(folder).first(None, None) == (12, 16) and len(list(open_set(folder).clips(12, 16))) == 2


def test_folders_without_videos_are_refused_with_what_to_give(tmp_path):
    folder = images(tmp_path, videos(1))
    with pytest.raises(UserError, match="its images are one video; give the folder above"):
        open_set(folder / "class" / "0")
    (tmp_path / "none").mkdir()
    with pytest.raises(
        UserError, match=r"no video in it; give a folder of videos \(files or folders of numbered images"
    ):
        open_set(tmp_path / "none")


def test_gifs_are_videos_of_the_rate_of_their_delays(tmp_path, caplog):
    shades = np.random.default_rng(0).integers(0, 2, (3, 9, 16, 16, 1), np.uint8) * np.array([250, 40, 90], np.uint8)
    for i, video in enumerate(shades):
        first, *rest = map(Image.fromarray, video)
        first.save(tmp_path / f"{i}.gif", save_all=True, append_images=rest, duration=80, loop=0)
    side = open_set(tmp_path)
    assert np.array_equal(np.stack(list(side.clips(9, 16))), shades)  # two colours fit into a palette
    assert side.rate == 12.5


def test_stores_of_ours(tmp_path):
    paths = make_project(tmp_path)
    found = measured(paths.pyramid, paths.samples(2) / "videos")
    assert (found["protocol"]["real_videos"], found["protocol"]["generated_videos"]) == (6, 6)
    assert "split val" in found["protocol"]["real_split"] and found["protocol"]["sigma"] == 1.0
    assert found["protocol"]["frames"] == 8 and found["fvd"] > 0
    with pytest.raises(UserError, match=r"--real-split.*train, val, not 'videos'"):
        open_set(paths.pyramid, split="videos")


@pytest.mark.filterwarnings("error")
def test_tables_beside_a_stores_arrays_are_no_warning(tmp_path):
    assert open_set(make_project(tmp_path).pyramid).first(None, None) == (10, 16)


def test_stores_of_other_rates_are_told_and_brought_to_one(tmp_path, caplog):
    stores = [make_project(tmp_path / name).pyramid for name in ("a", "b")]  # of videos of 24 frames a second
    for store, step in zip(stores, (4, 2), strict=True):
        attributes = zarr.open_group(store, mode="r+").attrs
        attributes["frame_step"] = step
        del attributes["checksum"]
    same = measured(stores[0], stores[0])["protocol"]
    assert (same["frame_step"], same["generated_frame_step"]) == (4, 4) and "equally fast" not in caplog.text
    found = measured(stores[0], stores[1])["protocol"]
    assert (found["frame_step"], found["generated_frame_step"], found["fps"], found["generated_fps"]) == (4, 2, 6, 12)
    assert "videos of REAL have 6 frames a second, of GENERATED 12: not equally fast; --fps brings" in caplog.text
    caplog.clear()
    sides = open_set(stores[0], fps=6.0), open_set(stores[1], fps=6.0)
    found = compare(KNOWN, *sides, frames=5)["protocol"]
    assert (found["frame_step"], found["fps"], found["generated_fps"]) == (None, 6, 6) and not caplog.text
    whole, halved = open_set(stores[1]), np.stack(list(sides[1].clips(5, 16)))
    assert np.array_equal(halved, np.stack(list(whole.clips(10, 16)))[:, ::2])
    with pytest.raises(UserError, match=r"--fps: .* has 6 frames a second: give no more, or frames come twice"):
        open_set(stores[0], fps=12.0)
    zarr.open_group(stores[1], mode="r+").attrs.update({"frame_step": None, "fps": 7.5})
    found = measured(stores[0], stores[1])["protocol"]
    assert (found["generated_frame_step"], found["fps"], found["generated_fps"]) == (None, 6, 7.5)
    zarr.open_group(stores[1], mode="r+").attrs["fps"] = "fast"
    with pytest.raises(UserError, match="is to be copied anew"):
        open_set(stores[1])


def test_folders_of_other_rates_are_told_and_brought_to_one(tmp_path, caplog):
    fast = videos(3, 24, 32)
    for name, step, fps in (("real", 1, 24), ("generated", 2, 12)):
        for i, video in enumerate(fast[:, ::step]):
            write_mp4(tmp_path / name / f"{i}.mp4", video, fps)
    apart = measured(tmp_path / "real", tmp_path / "generated", frames=9)
    assert (apart["protocol"]["fps"], apart["protocol"]["generated_fps"]) == (24, 12)
    assert caplog.text.count("videos of REAL have 24 frames a second, of GENERATED 12: not equally fast") == 1
    caplog.clear()
    for rate in (23.98, 24.2):
        write_mp4(tmp_path / "near" / "0.mp4", fast[0], rate)
        write_mp4(tmp_path / "near" / "1.mp4", fast[1], rate)
        assert measured(tmp_path / "near", tmp_path / "real", frames=9) and not caplog.text
    write_mp4(tmp_path / "real" / "later.mp4", fast[0], 25)  # behind what is looked at beforehand
    mixed = measured(tmp_path / "real", tmp_path / "generated", frames=9)
    assert mixed["protocol"]["fps"] == (24, 25) and "videos of REAL have 24 frames a second" in caplog.text
    (tmp_path / "real" / "later.mp4").unlink()
    caplog.clear()
    sides = open_set(tmp_path / "real", fps=12.0), open_set(tmp_path / "generated", fps=12.0)
    together = compare(KNOWN, *sides, frames=9)
    assert (together["protocol"]["fps"], together["protocol"]["generated_fps"]) == (12, 12) and not caplog.text
    assert together["fvd"] < apart["fvd"] / 10  # not 0: they are two encodings
    assert np.array_equal(list(sides[0].clips(9, 32)), list(open_set(tmp_path / "real", frame_step=2).clips(9, 32)))


def test_random_windows_are_all_there_are_before_any_comes_twice(tmp_path):
    frames = videos(3, 12)
    frames[..., 0, 0, 0] = 20 * np.arange(3)[:, None] + np.arange(12)  # which video and frame it is
    array, folder = saved(tmp_path / "a.npy", frames), images(tmp_path / "images", frames)

    def windows(path: Path, seed: int, side: str = "REAL") -> list[tuple[int, int]]:
        clips = list(open_set(path).clips(9, 16, Draw(seed, side)))
        places = [divmod(int(clip[0, 0, 0, 0]), 20) for clip in clips]
        assert all(
            np.array_equal(clip, frames[video, t : t + 9]) for clip, (video, t) in zip(clips, places, strict=True)
        )
        return places

    drawn = windows(array, 0)
    assert sorted(drawn) == [(video, t) for video in range(3) for t in range(4)]
    assert all({video for video, _ in drawn[i : i + 3]} == {0, 1, 2} for i in range(0, 12, 3))
    assert windows(array, 0) == windows(folder, 0) == drawn
    assert len({tuple(windows(array, seed)) for seed in range(4)} | {tuple(windows(array, 0, "GENERATED"))}) == 5


def test_a_random_window_is_anywhere_in_a_video_as_often(tmp_path):
    array = saved(
        tmp_path / "a.npy",
        np.zeros((400, 6, 1, 1, 3), np.uint8) + 2 * np.arange(6, dtype=np.uint8)[:, None, None, None],
    )
    starts = [int(clip[0, 0, 0, 0]) // 2 for clip in islice(open_set(array).clips(3, 1, Draw(0, "REAL")), 400)]
    assert np.abs(np.bincount(starts, minlength=4) - 100).max() < 35  # four standard deviations of a share


def test_clips_by_number_are_in_the_protocol_and_too_few_are_told(tmp_path, caplog):
    long, short = saved(tmp_path / "l.npy", videos(4, 14)), saved(tmp_path / "s.npy", videos(6, 9, first=4))
    found = measured(long, short, clips=5, seed=3)["protocol"]
    assert (found["real_videos"], found["generated_videos"]) == (5, 5) and not caplog.text
    assert found["start"].startswith("random windows, 5 at most, seed 3") and found["generated_start"] == found["start"]
    assert (found["clips_per_video"], found["generated_clips_per_video"]) == (2, 1)
    found = measured(long, short, clips=8)["protocol"]
    assert (found["real_videos"], found["generated_videos"]) == (8, 6)
    assert "GENERATED has no more than 6 windows of 9 frames, not 8" in caplog.text
    assert measured(long, short, clips=5)["fvd"] != measured(long, short, clips=5, seed=1)["fvd"]


def test_windows_of_what_is_short_or_broken_are_those_of_the_others(tmp_path, caplog):
    for i, (video, length) in enumerate(zip(videos(3, 12, 32), (12, 5, 12), strict=True)):
        write_mp4(tmp_path / f"{i}.mp4", video[:length], 24)
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:200])
    assert len(list(open_set(tmp_path).clips(9, 16, Draw(0, "REAL")))) == 8
    assert caplog.text.count("torn.mp4 is left out") == 1


def test_saved_statistics_stand_for_the_real_set(tmp_path):
    real, generated, kept = (
        saved(tmp_path / "r.npy", videos(5, 12)),
        saved(tmp_path / "g.npy", videos(4, first=9)),
        tmp_path / "r.safetensors",
    )
    first = measured(real, generated, clips=6, seed=2, save=kept)
    real.unlink()
    again = compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), clips=6, seed=2)
    assert again == first and first["fvd"] > 0 and first["protocol"]["real_videos"] == 6
    other = compare(
        KNOWN, read_statistics(kept, KNOWN), open_set(saved(tmp_path / "h.npy", videos(4, 12, 32, first=20)))
    )
    assert other["protocol"]["frames"] == 10 and other["protocol"]["size"] == 16  # as those of REAL
    assert other["protocol"]["generated_start"].startswith("the first frames")
    with pytest.raises(UserError, match=r"--frames: .* is of clips of 10, not 9"):
        compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), frames=9)
    with pytest.raises(UserError, match=r"--size: .* is of clips of 16, not 32"):
        compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), size=32)
    assert compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), frames=10, size=16)["fvd"] > 0


def test_statistics_of_other_networks_or_code_are_told(tmp_path, caplog, monkeypatch):
    array, kept = saved(tmp_path / "a.npy", videos(3)), tmp_path / "a.safetensors"
    measured(array, array, save=kept)
    for networks, says in (
        (
            FeatureNetworks(tiny_network(0, "ef" * 32), KNOWN.k600),
            "measured by the k400 I3D 'abababababababab', not by 'ef",
        ),
        (
            FeatureNetworks(KNOWN.k400),
            "measured by the k600 I3D 'cdcdcdcdcdcdcdcd', not by 'none'.*--i3d-k600",
        ),
        (FeatureNetworks(tiny_network()), "not by 'random, seed 0'"),
    ):
        with pytest.raises(UserError, match=says):
            read_statistics(kept, networks)
    assert not caplog.text
    monkeypatch.setattr(statistics, "code_hash", lambda *_, **__: "another")
    read_statistics(kept, KNOWN)
    assert "another version of this code" in caplog.text


def test_damaged_statistics_are_refused_in_one_line(tmp_path):
    array, kept = saved(tmp_path / "a.npy", videos(3)), tmp_path / "a.safetensors"
    measured(array, array, save=kept)
    content = kept.read_bytes()
    with safe_open(kept, "pt") as opened:
        said, names = opened.metadata(), opened.keys()
        tensors = {name: opened.get_tensor(name) for name in names}
    facts = json.loads(said["facts"])

    def refused() -> None:
        with pytest.raises(UserError, match="save it anew by") as said:
            read_statistics(kept, KNOWN)
        assert str(kept) in str(said.value) and "\n" not in str(said.value)

    for damaged in (b"", b"{}", content[:7], content[:99], content[:-1], b"\xff" * 8 + content[8:], content + b"0"):
        kept.write_bytes(damaged)
        refused()
    for odd in (
        {},
        {"spectra": None},
        {"logits": tensors["logits"][:2]},
        {"logits": tensors["logits"] * float("nan")},
        {"logits": tensors["logits"].long()},
        {"pooled": tensors["pooled"][0]},
        {"more": tensors["pooled"].clone()},
    ):
        changed = {name: tensor for name, tensor in (tensors | odd).items() if tensor is not None} if odd else {}
        save_file(changed, kept, said)
        refused()
    for key, values in {
        "frames": (0, -1, 2**21, 1.5, True, "9", None),
        "size": (0, 2**14),
        "fps": (-0.1, 1e10, float("nan"), [1], [1, 2, 3], "24"),
        "frame_step": (0, 2**40),
        "clips_per_video": (0,),
        "start": ("", "a\nb", 3),
        "more": (1,),
    }.items():
        for value in values:
            save_file(tensors, kept, said | {"facts": json.dumps(facts | {key: value})})
            refused()
    for text in ("", "[]", "null", "[" * 10**5, json.dumps({"what": "x"})):
        save_file(tensors, kept, said | {"facts": text})
        refused()
    for missing in said:
        save_file(tensors, kept, {name: text for name, text in said.items() if name != missing})
        refused()
    save_file(tensors, kept)
    refused()
    kept.unlink()
    kept.mkdir()
    with pytest.raises(UserError, match="no video in it"):
        open_set(kept)


@pytest.mark.parametrize("content", [b"{}", b"{", b"\xff", b"[]", b'{"zarr_format": 3, "node_type": "group"}'])
def test_damaged_stores_are_refused_in_one_line(tmp_path, content):
    store = make_project(tmp_path).samples(2) / "videos"
    for name in ("level-2/zarr.json", "zarr.json", "videos.parquet"):
        whole = (store / name).read_bytes()
        (store / name).write_bytes(content)
        with pytest.raises(UserError, match="is to be copied anew") as refused:
            open_set(store)
        assert str(store) in str(refused.value) and "\n" not in str(refused.value)
        (store / name).write_bytes(whole)
    (store / "level-2").rename(tmp_path / "away")
    with pytest.raises(UserError, match="a store without a level"):
        open_set(store)


def test_folders_of_videos_are_scaled_and_what_is_broken_or_short_is_left_out(tmp_path, caplog):
    folder = tmp_path / "videos" / "class"
    folder.mkdir(parents=True)
    for i, video in enumerate(videos(3, 12, 64)):
        write_mp4(folder / f"{i}.mp4", video, 24)
    write_mp4(folder / "short.mp4", videos(1, 5, 64)[0], 24)
    (folder / "torn.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    array = saved(tmp_path / "g.npy", videos(3, 12, 32))
    found = measured(tmp_path / "videos", array)
    assert found["protocol"]["real_videos"] == 3 and found["protocol"]["size"] == 32
    assert "torn.mp4 is left out" in caplog.text
    both = measured(tmp_path / "videos", tmp_path / "videos")  # the first video's own length and size
    assert (both["protocol"]["frames"], both["protocol"]["size"]) == (12, 64) and both["fvd"] < 1e-6
    stepped = open_set(tmp_path / "videos", frame_step=4)
    slower = open_set(tmp_path / "videos", fps=6.0)
    assert np.array_equal(list(stepped.clips(3, 16)), list(slower.clips(3, 16))) and slower.rate == 6
    assert len(list(stepped.clips(3, 16))) == 3


def test_a_folder_has_links_followed_and_what_is_hidden_or_away_left_out(tmp_path, caplog):
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    for file in (tmp_path / "elsewhere" / "a.mp4", root / "b.mp4", root / "._b.mp4", root / ".c.mp4"):
        write_mp4(file, videos(1, 9, 64)[0], 24)
    (root / "class").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root)  # would have no end
    (root / "away.mp4").symlink_to(tmp_path / "none.mp4")
    (root / "folder.mp4").mkdir()
    found = open_set(root)
    assert found.what == "folder of 2 videos" and len(list(found.clips(9, 16))) == 2
    assert "'away.mp4' is left out: No such file" in caplog.text
    (root / "away.mp4").unlink()
    (root / os.fsdecode(b"\xff.mp4")).touch()
    with pytest.raises(UserError, match=r"'\\udcff\.mp4' is not UTF-8"):
        open_set(root)


def test_the_digest_of_a_folder_is_of_its_names_and_contents(tmp_path):
    def digest(**files: bytes) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / f"{name}.mp4").write_bytes(content)
        return open_set(folder).digest

    whole = digest(a=b"12", b=b"3")
    assert digest(b=b"3", a=b"12") == whole
    assert len({whole, digest(a=b"21", b=b"3"), digest(a=b"12", c=b"3"), digest(a=b"12")}) == 4


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 3, 8, 8, 3), np.float32), r"float32: give uint8 of 0 to 255: round x \* 255 of \[0, 1\]"),
        (np.full((2, 3, 8, 8, 3), np.nan), r"float64: give uint8 of .*\(x \+ 1\) \* 127.5 of \[-1, 1\]"),
        (np.zeros((2, 3, 8, 8, 3), np.int64), "int64: give uint8"),
        (np.full((2, 3, 8, 8, 3), "a"), "U1: give uint8"),
        (np.ones((2, 3, 8, 8, 3), np.uint8), "no value above 1"),
        (np.zeros((2, 3, 3, 8, 8), np.uint8), r"np\.moveaxis\(x, 2, -1\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "N T H W 3"),
        (np.zeros((0, 3, 8, 8, 3), np.uint8), "no frame"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_videos_are_refused(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array, allow_pickle=array.dtype == object)
    with pytest.raises(UserError, match=says):
        open_set(tmp_path / "a.npy")


@pytest.mark.parametrize("damage", [(b", }", b", ~"), (b"|u1", b",u1"), (b"'shape': (", b"'shape': [")])
def test_damaged_headers_of_arrays_are_refused(tmp_path, damage):
    path = saved(tmp_path / "a.npy", videos(2))
    path.write_bytes(path.read_bytes().replace(*damage))
    with pytest.raises(UserError, match="cannot be read"):
        open_set(path)


def test_other_things_are_refused(tmp_path, monkeypatch):
    one = saved(tmp_path / "one.npy", videos(1))
    with pytest.raises(UserError, match="fewer than 2 videos"):
        measured(one, one)
    two = saved(tmp_path / "two.npy", videos(2))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="--splits: 3 of 2 videos"):
        patch.setattr(compare_sets, "measure", lambda *_: pytest.fail("it is measured first"))
        measured(two, two, splits=3)
    np.savez(tmp_path / "several.npz", a=videos(2), b=videos(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    for name, says in (("several.npz", "a, b"), ("empty", "no video in it"), ("none.npy", "no such set"),
                       ("torn.npy", "cannot be read"), ("torn.npz", "cannot be read")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            open_set(tmp_path / name)


def npz(path: Path, *, shape: tuple[int, ...], data: bytes, fortran: bool = False) -> Path:
    """A compressed archive whose array declares a shape and holds some bytes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": fortran, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", head.getvalue() + data)
    return path


def test_an_npz_is_decompressed_only_as_far_as_it_may_be_large(tmp_path, monkeypatch):
    good = videos(2)
    whole = npz(tmp_path / "whole.npz", shape=good.shape, data=good.tobytes())
    by_columns = npz(tmp_path / "f.npz", shape=good.shape, data=good.tobytes(order="F"), fortran=True)
    for path in (whole, by_columns):
        assert np.array_equal(np.stack(list(open_set(path).clips(10, 16))), good)
    huge = npz(tmp_path / "huge.npz", shape=(2**20, 2**10, 256, 256, 3), data=b"0" * 99)
    short = npz(tmp_path / "short.npz", shape=good.shape, data=good.tobytes()[:-1])
    for path in (huge, short):
        with pytest.raises(UserError, match=r"cannot be read.*save it as \.npy"):
            open_set(path)
    monkeypatch.setattr(arrays, "MAX_NPZ_BYTES", good.size - 1)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("an array is decompressed"))
    with pytest.raises(UserError, match=r"too many to decompress: save it as \.npy"):
        open_set(whole)


def test_damaged_npz_files_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    path = npz(tmp_path / "a.npz", shape=noise.shape, data=noise.tobytes())
    content = path.read_bytes()
    for damaged in (
        content[:200] + bytes(64) + content[264:],  # its stream
        content[: len(content) // 2],
        content[:50] + b"\xff" * 20 + content[70:],  # deflate's own header
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot be read.*save it as \.npy"):
            open_set(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text", "no array")
    with pytest.raises(UserError, match="cannot be read"):
        open_set(path)
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_set(tmp_path / "b.npy")


def test_the_first_video_that_can_be_decoded_sets_length_and_size(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", videos(1, 12, 64)[0], 24)
    found = open_set(tmp_path)
    decode = sides.decode_video

    def fails(path, *given, **chosen):
        if path.name == "a.mp4":
            raise VideoError("no frame is left")
        return decode(path, *given, **chosen)

    with monkeypatch.context() as patch:
        patch.setattr(sides, "decode_video", fails)
        assert found.first(None, None) == (12, 64)
    decoded = []

    def counts(*given, **chosen):
        decoded.append((chosen["max_frames"], chosen["size"]))
        return decode(*given, **chosen)

    monkeypatch.setattr(sides, "decode_video", counts)
    monkeypatch.setattr(sides, "MAX_CLIP_BYTES", 3 * 9 * 64 * 64 - 1)
    for frames, size, says in ((None, None, "9 frames of 64x64 .* give --frames and --size"),
                               (10, None, "9 frames of 64x64 .* give --size$"),
                               (None, 96, "4 frames of 96x96 .* give --frames$")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            found.first(frames, size)
    assert found.first(3, None) == (3, 64) and found.first(None, 32) == (12, 32)
    most = (9, 9, 4, 3, 36)  # frames that are decoded: what is asked, and no more than are one too many
    assert decoded == list(zip(most, (64, 64, 96, 64, 32), strict=True))
    assert found.first(10**6, 512) == (10**6, 512) and len(decoded) == 5


def test_the_command_works_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.metrics.weights.installed_file", lambda: tmp_path / "none")
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    saved(tmp_path / "a.npy", videos(3))
    done = CliRunner().invoke(cli, ["metrics", "a.npy", "a.npy", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {"fvd", "fid", "inception_score", "protocol"} <= set(found)
    assert not [path for path in tmp_path.iterdir() if path.name != "a.npy"]
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        CliRunner().invoke(cli, ["runs"], catch_exceptions=False)


def test_weights_of_the_command_are_read_and_named(tmp_path, monkeypatch):
    network = I3D(600)
    network.randomize(2)
    save_file(network.state_dict(), tmp_path / "k600.safetensors")
    monkeypatch.setattr("pipeline.metrics.weights.installed_file", lambda: tmp_path / "none")
    saved(tmp_path / "a.npy", videos(2, 1))
    args = ["metrics", str(tmp_path / "a.npy"), str(tmp_path / "a.npy")]
    done = CliRunner().invoke(cli, [*args, "--i3d-k600", str(tmp_path / "k600.safetensors"), "--json"])
    found = json.loads(done.stdout)
    assert found["fid"] == pytest.approx(0, abs=1e-4) and found["fvd"] is None
    assert found["protocol"]["pooled_network"] == "k600.safetensors" and len(found["protocol"]["pooled_sha256"]) == 64
    assert "forth and back" in found["protocol"]["played"]
    with pytest.raises(UserError, match="--i3d-k400"):
        CliRunner().invoke(cli, [*args, "--i3d-k400", str(tmp_path / "a.npy")], catch_exceptions=False)


def test_the_installed_weights_are_what_the_command_takes_where_none_are_given(tmp_path, monkeypatch):
    network = I3D(400)
    network.randomize(2)
    installed = tmp_path / "share" / "i3d-k400.safetensors"
    monkeypatch.setattr("pipeline.metrics.weights.installed_file", lambda: installed)
    a, b = saved(tmp_path / "a.npy", videos(2, 1)), saved(tmp_path / "b.npy", videos(2, 1, first=9))
    command = ["metrics", str(a), str(b), "--json"]
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    without = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert without["fvd"] is None and without["protocol"]["logits_network"] == "random, seed 0"
    installed.parent.mkdir()
    save_file(network.state_dict(), installed)
    found = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert found["fvd"] > 0 and found["fid_k400"] > 0 and found["fid"] is None
    assert found["protocol"]["logits_network"] == "i3d-k400.safetensors" and not found["protocol"]["pooled_network"]
    assert found["note"].startswith("FID takes --i3d-k600")


def test_convert_writes_what_evaluation_loads(tmp_path, monkeypatch):
    from pipeline.metrics import convert
    from pipeline.metrics.features import load_i3d
    from tests.pipeline.metrics.test_convert import theirs

    network = I3D(600)
    network.randomize(4)
    monkeypatch.setattr(convert, "read_checkpoint", lambda path: theirs(network, ""))
    out = tmp_path / "k600.safetensors"
    done = CliRunner().invoke(cli, ["convert-i3d", "model.ckpt", str(out)], catch_exceptions=False)
    found = load_i3d(out, 600, "k600")
    assert "600 classes" in done.stdout and found.sha256 is not None and found.sha256 in done.stdout
    ours = network.state_dict()
    loaded = found.network.state_dict()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours if "num_batches" not in name)
    with pytest.raises(UserError, match="must end in"):
        CliRunner().invoke(cli, ["convert-i3d", "model.ckpt", str(tmp_path / "a.pt")], catch_exceptions=False)


def test_the_command_saves_statistics_and_takes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.metrics.weights.installed_file", lambda: tmp_path / "none")
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    saved(tmp_path / "a.npy", videos(3))
    saved(tmp_path / "b.npy", videos(3, first=5))

    def run(*args: str) -> str:
        return CliRunner().invoke(cli, ["metrics", *args], catch_exceptions=False).stdout

    first = json.loads(run("a.npy", "b.npy", "--clips", "3", "--save-statistics", "a.safetensors", "--json"))
    assert json.loads(run("a.safetensors", "b.npy", "--clips", "3", "--json")) == first
    refusals = {
        ("a.npy", "b.npy", "--save-statistics", "a.safetensors"): "--save-statistics: a.safetensors is there already",
        ("a.npy", "b.npy", "--save-statistics", "c.npz"): r"does not end in \.safetensors",
        ("a.npy", "b.npy", "--fps", "8", "--real-step", "2"): "--real-step and --fps: .* give one of them",
        ("a.safetensors", "b.npy", "--real-step", "2"): "--real-step: a.safetensors has been measured already",
        ("a.npy", "a.safetensors"): "a.safetensors: no such set; give a folder.* stand for REAL alone",
    }
    for args, says in refusals.items():
        with pytest.raises(UserError, match=says):
            run(*args)


def test_help_answers_outside_of_a_project(tmp_path):
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "metrics", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "GENERATED" in done.stdout

"""Sets of videos as people have them: what is read of arrays, stores and folders, and what is refused."""

import io
import os
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.media.video import write_mp4
from pipeline.metrics import arrays
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.sides import Draw
from tests.pipeline.metrics.sets import images, measured, saved, videos
from tests.stages.fake_project import make_project


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


def test_windows_of_what_is_short_or_broken_are_those_of_the_others(tmp_path, caplog):
    for i, (video, length) in enumerate(zip(videos(3, 12, 32), (12, 5, 12), strict=True)):
        write_mp4(tmp_path / f"{i}.mp4", video[:length], 24)
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:200])
    assert len(list(open_set(tmp_path).clips(9, 16, Draw(0, "REAL")))) == 8
    assert caplog.text.count("torn.mp4 is left out") == 1


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
    os.mkfifo(root / "pipe.mp4")
    (root / "device.mp4").symlink_to("/dev/zero")
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

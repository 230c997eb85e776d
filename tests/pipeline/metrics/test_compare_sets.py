"""hvg metrics on arrays, stores and folders of videos, and what it refuses with which way out."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from safetensors.torch import save_file

from models.i3d import I3D
from pipeline.cli import cli
from pipeline.data.video.errors import VideoError
from pipeline.errors import UserError
from pipeline.media.video import write_mp4
from pipeline.metrics import arrays, clip_sets, compare_sets, evaluation
from pipeline.metrics import measured as measuring
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import as_text, compare
from pipeline.metrics.measured import FeatureNetworks
from tests.pipeline.metrics.tiny import tiny_network
from tests.stages.fake_project import make_project, moving

KNOWN = FeatureNetworks(tiny_network(0, "ab" * 32), tiny_network(1, "cd" * 32))


def videos(n: int, frames: int = 10, size: int = 16, first: int = 0) -> np.ndarray:
    return np.stack([moving(first + i, frames, size) for i in range(n)])


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def measured(real: Path, generated: Path, networks: FeatureNetworks = KNOWN, **given) -> dict:
    sides = open_set(real, split=None, frame_step=1), open_set(generated, split=None, frame_step=1)
    return compare(networks, *sides, **{"frames": None, "size": None, "splits": 1} | given)


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
    found = measured(a, a, FeatureNetworks(tiny_network(), tiny_network()))
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


def test_sides_of_other_sizes_are_refused(tmp_path):
    small, large = saved(tmp_path / "s.npy", videos(3)), saved(tmp_path / "l.npy", videos(3, size=32))
    with pytest.raises(UserError, match=r"REAL.*32 pixels, and the clips have 16: scale one side like the other"):
        measured(large, small)
    with pytest.raises(UserError, match=r"REAL.*16 pixels, and the clips have 32: leave out --size, or give 16"):
        measured(small, small, size=32)


def test_a_folder_is_scaled_to_the_other_side_whichever_it_is(tmp_path):
    array = saved(tmp_path / "a.npy", videos(3, 9))
    (tmp_path / "videos").mkdir()
    for i, video in enumerate(videos(3, 9, 64)):
        write_mp4(tmp_path / "videos" / f"{i}.mp4", video, 24)
    for real, generated in ((array, tmp_path / "videos"), (tmp_path / "videos", array)):
        assert measured(real, generated)["protocol"]["size"] == 16
        with pytest.raises(UserError, match=r"a\.npy: 16 pixels, and the clips have 32: leave out --size, or give 16"):
            measured(real, generated, size=32)


def test_stores_of_ours(tmp_path):
    paths = make_project(tmp_path)
    found = measured(paths.pyramid, paths.samples(2) / "videos")
    assert (found["protocol"]["real_videos"], found["protocol"]["generated_videos"]) == (6, 6)
    assert "split val" in found["protocol"]["real_split"] and found["protocol"]["sigma"] == 1.0
    assert found["protocol"]["frames"] == 8 and found["fvd"] > 0
    with pytest.raises(UserError, match=r"--real-split.*train, val, not 'videos'"):
        open_set(paths.pyramid, split="videos", frame_step=1)


@pytest.mark.filterwarnings("error")
def test_tables_beside_a_stores_arrays_are_no_warning(tmp_path):
    assert open_set(make_project(tmp_path).pyramid, split=None, frame_step=1).first(None, None) == (10, 16)


def test_stores_of_other_speeds_are_told(tmp_path, caplog):
    stores = [make_project(tmp_path / name).pyramid for name in ("a", "b")]
    for store, step in zip(stores, (4, 2), strict=True):
        attributes = zarr.open_group(store, mode="r+").attrs
        attributes["frame_step"] = step
        del attributes["checksum"]
    same = measured(stores[0], stores[0])["protocol"]
    assert (same["frame_step"], same["generated_frame_step"]) == (4, 4) and "speeds" not in caplog.text
    found = measured(stores[0], stores[1])["protocol"]
    assert (found["frame_step"], found["generated_frame_step"]) == (4, 2)
    assert "4 native frames a frame of REAL, 2 native frames a frame of GENERATED: their speeds differ" in caplog.text
    zarr.open_group(stores[1], mode="r+").attrs.update({"frame_step": None, "fps": 7.5})
    found = measured(stores[0], stores[1])["protocol"]
    assert (found["generated_frame_step"], found["fps"], found["generated_fps"]) == (None, None, 7.5)
    assert "4 native frames a frame of REAL, 7.5 frames a second of GENERATED" in caplog.text


@pytest.mark.parametrize("content", [b"{}", b"{", b"\xff", b"[]", b'{"zarr_format": 3, "node_type": "group"}'])
def test_damaged_stores_are_refused_in_one_line(tmp_path, content):
    store = make_project(tmp_path).samples(2) / "videos"
    for name in ("level-2/zarr.json", "zarr.json", "videos.parquet"):
        whole = (store / name).read_bytes()
        (store / name).write_bytes(content)
        with pytest.raises(UserError, match="is to be copied anew") as refused:
            open_set(store, split=None, frame_step=1)
        assert str(store) in str(refused.value) and "\n" not in str(refused.value)
        (store / name).write_bytes(whole)
    (store / "level-2").rename(tmp_path / "away")
    with pytest.raises(UserError, match="a store without a level"):
        open_set(store, split=None, frame_step=1)


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
    stepped = open_set(tmp_path / "videos", split=None, frame_step=4)
    slower = open_set(tmp_path / "videos", split=None, frame_step=None, fps=6.0)
    assert np.array_equal(list(stepped.clips(3, 16)), list(slower.clips(3, 16))) and slower.fps == 6
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
    found = open_set(root, split=None, frame_step=1)
    assert found.what == "folder of 2 videos" and len(list(found.clips(9, 16))) == 2
    assert "'away.mp4' is left out: No such file" in caplog.text
    (root / "away.mp4").unlink()
    (root / os.fsdecode(b"\xff.mp4")).touch()
    with pytest.raises(UserError, match=r"'\\udcff\.mp4' is not UTF-8"):
        open_set(root, split=None, frame_step=1)


def test_the_digest_of_a_folder_is_of_its_names_and_contents(tmp_path):
    def digest(**files: bytes) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / f"{name}.mp4").write_bytes(content)
        return open_set(folder, split=None, frame_step=1).digest

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
        (np.zeros((2, 3, 8, 9, 3), np.uint8), "square"),
        (np.zeros((0, 3, 8, 8, 3), np.uint8), "no frame"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_videos_are_refused(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array, allow_pickle=array.dtype == object)
    with pytest.raises(UserError, match=says):
        open_set(tmp_path / "a.npy", split=None, frame_step=1)


@pytest.mark.parametrize("damage", [(b", }", b", ~"), (b"|u1", b",u1"), (b"'shape': (", b"'shape': [")])
def test_damaged_headers_of_arrays_are_refused(tmp_path, damage):
    path = saved(tmp_path / "a.npy", videos(2))
    path.write_bytes(path.read_bytes().replace(*damage))
    with pytest.raises(UserError, match="cannot be read"):
        open_set(path, split=None, frame_step=1)


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
            open_set(tmp_path / name, split=None, frame_step=1)


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
        assert np.array_equal(np.stack(list(open_set(path, split=None, frame_step=1).clips(10, 16))), good)
    huge = npz(tmp_path / "huge.npz", shape=(2**20, 2**10, 256, 256, 3), data=b"0" * 99)
    short = npz(tmp_path / "short.npz", shape=good.shape, data=good.tobytes()[:-1])
    for path in (huge, short):
        with pytest.raises(UserError, match=r"cannot be read.*save it as \.npy"):
            open_set(path, split=None, frame_step=1)
    monkeypatch.setattr(arrays, "MAX_NPZ_BYTES", good.size - 1)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("an array is decompressed"))
    with pytest.raises(UserError, match=r"too many to decompress: save it as \.npy"):
        open_set(whole, split=None, frame_step=1)


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
            open_set(path, split=None, frame_step=1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text", "no array")
    with pytest.raises(UserError, match="cannot be read"):
        open_set(path, split=None, frame_step=1)
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_set(tmp_path / "b.npy", split=None, frame_step=1)


def test_the_first_video_that_can_be_decoded_sets_length_and_size(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", videos(1, 12, 64)[0], 24)
    found = open_set(tmp_path, split=None, frame_step=1)
    decode = clip_sets.decode_video

    def fails(path, *given, **chosen):
        if path.name == "a.mp4":
            raise VideoError("no frame is left")
        return decode(path, *given, **chosen)

    with monkeypatch.context() as patch:
        patch.setattr(clip_sets, "decode_video", fails)
        assert found.first(None, None) == (12, 64)
    decoded = []

    def counts(*given, **chosen):
        decoded.append((chosen["max_frames"], chosen["size"]))
        return decode(*given, **chosen)

    monkeypatch.setattr(clip_sets, "decode_video", counts)
    monkeypatch.setattr(clip_sets, "MAX_CLIP_BYTES", 3 * 9 * 64 * 64 - 1)
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
    assert found["protocol"]["logits_network"] == found["protocol"]["pooled_network"] == "i3d-k400.safetensors"
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


def test_help_answers_outside_of_a_project(tmp_path):
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "metrics", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "GENERATED" in done.stdout

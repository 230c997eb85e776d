"""hvg metrics: two sets of videos compared, and what it says of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from models.i3d import I3D
from pipeline.cli import cli
from pipeline.data.video.errors import VideoError
from pipeline.errors import UserError
from pipeline.media.video import write_mp4
from pipeline.metrics import compare_sets, evaluation, sides
from pipeline.metrics import measured as measuring
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import as_text, compare
from pipeline.metrics.measured import FeatureNetworks
from tests.pipeline.metrics.sets import KNOWN, measured, saved, videos
from tests.pipeline.metrics.tiny import tiny_network
from tests.stages.fake_project import make_project


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


def test_help_answers_outside_of_a_project(tmp_path):
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "metrics", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "GENERATED" in done.stdout

"""Kinds of source: what is seen must be right, by colours that are known, and the same by both engines."""

import csv
import subprocess
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.data.layouts.walk import list_files
from pipeline.data.video import pyav
from pipeline.data.video.errors import VideoError
from pipeline.data.video.source import examine
from tests.pipeline.data.video.test_video import CLIPS, ENGINES, clips, decode

RED, GREEN, BLUE, YELLOW = (192, 32, 32), (32, 160, 32), (32, 48, 192), (176, 176, 48)
UPRIGHT = [[RED, GREEN], [BLUE, YELLOW]]
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "16"]
VP9 = ["-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-cpu-used", "8"]
HALF_SEEN = "format=rgba,colorchannelmixer=aa=0.5,"


def yuv(pixels: str, colours: str = "bt601", levels: str = "tv") -> str:
    flags = "accurate_rnd+full_chroma_int+bicubic"
    return f"scale=out_color_matrix={colours}:out_range={levels}:flags={flags},format={pixels}"


def ffmpeg(*options: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *options], check=True)


def quadrants(path: Path, chain: str, options: list[str], size: tuple[int, int] = (96, 64)) -> Path:
    """A second of four colours, 12 frames, through a chain of filters."""
    width, height = size
    places = [(0, 0), (width // 2, 0), (0, height // 2), (width // 2, height // 2)]
    boxes = "".join(
        f",drawbox={x}:{y}:{width - width // 2}:{height - height // 2}:color=0x{bytes(colour).hex()}:t=fill"
        for (x, y), colour in zip(places, (RED, GREEN, BLUE, YELLOW), strict=True)
    )
    source = f"color=s={width}x{height}:r=12:d=1,format=gbrp{boxes}"
    ffmpeg("-f", "lavfi", "-i", source, "-vf", chain, *options, str(path))
    return path


def corners(frame: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quadrants, [2, 2, 3]."""
    quarter = len(frame) // 4
    at = (slice(quarter - 2, quarter + 2), slice(-quarter - 2, -quarter + 2))
    return np.array([[frame[y, x].reshape(-1, 3).mean(0) for x in at] for y in at])


def both(path: Path, **options) -> np.ndarray:
    """What both engines make of a file, after a look that it is the same."""
    ours, facts = decode(path, size=32, crop="none", **options)
    theirs, same = decode(path, "ffmpeg", size=32, crop="none", **options)
    assert facts == same
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 0.1
    return ours


@pytest.mark.parametrize(
    ("name", "chain", "options"),
    [
        ("420.mp4", yuv("yuv420p"), H264),
        ("709.mp4", yuv("yuv420p", "bt709"), [*H264, "-colorspace", "bt709", "-color_range", "tv"]),
        ("full.mp4", yuv("yuv420p", levels="pc"), [*H264, "-color_range", "pc"]),
        ("444.mp4", yuv("yuv444p"), H264),
        ("10bit.mp4", yuv("yuv422p10le"), H264),
        ("rgb.mp4", "format=rgb24", ["-c:v", "libx264rgb", "-crf", "16"]),
        ("interlaced.mp4", "interlace," + yuv("yuv420p"), [*H264, "-flags", "+ilme+ildct", "-x264opts", "tff=1"]),
        ("b-frames.avi", yuv("yuv420p"), ["-c:v", "mpeg4", "-q:v", "2", "-bf", "2"]),
        ("reordered.avi", yuv("yuv420p"), [*H264[:2], "-bf", "3"]),
        ("raw.h264", yuv("yuv420p"), H264),
        ("alpha.webm", HALF_SEEN + yuv("yuva420p"), [*VP9, "-auto-alt-ref", "0"]),
        ("alpha.mov", HALF_SEEN + "format=rgba", ["-c:v", "png"]),
        ("prores.mov", HALF_SEEN + yuv("yuva444p10le"), ["-c:v", "prores_ks"]),
        ("mpeg2.ts", yuv("yuv420p"), ["-r", "25", "-c:v", "mpeg2video", "-q:v", "2", "-bf", "2"]),
    ],
)
def test_colours(tmp_path, name, chain, options):
    frames = both(quadrants(tmp_path / name, chain, options))
    assert len(frames) >= (6 if "interlaced" in name else 11)
    for frame in (frames[0], frames[-1]):
        assert np.abs(corners(frame) - UPRIGHT).max() < 8


@pytest.mark.parametrize(
    ("name", "options", "codec"),
    [
        ("a.m2v", ["-c:v", "mpeg2video", "-r", "25"], "mpeg2video"),
        ("a.f4v", [*H264, "-f", "mp4"], "h264"),
        ("a.divx", ["-c:v", "mpeg4", "-f", "avi"], "mpeg4"),
        ("a.dv", ["-c:v", "dvvideo", "-s", "720x576", "-r", "25"], "dvvideo"),
        ("a.ivf", VP9, "vp9"),
        ("a.hevc", ["-c:v", "libx265", "-x265-params", "log-level=none"], "hevc"),
    ],
)
def test_rare_suffixes_are_listed_and_opened(tmp_path, name, options, codec):
    path = quadrants(tmp_path / name, yuv("yuv420p"), options)
    assert list_files(tmp_path, lambda path: False)["path"].tolist() == [name]
    frames, facts = decode(path, size=32, crop="none")
    assert facts.codec == codec and len(frames) >= 11


def test_a_duration_of_0_is_none(tmp_path):
    path = quadrants(tmp_path / "a.mp4", yuv("yuv420p"), H264)
    assert examine(path, time.monotonic() + 60).facts.seconds == 1
    content = bytearray(path.read_bytes())
    at = content.index(b"mdhd") + 20  # behind version, flags, two dates and the time scale
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    assert examine(path, time.monotonic() + 60).facts.seconds is None


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (341, 256)])
def test_odd_sizes(tmp_path, size):
    path = quadrants(tmp_path / "a.mp4", yuv("yuv444p"), H264, size)
    ours, theirs = (decode(path, engine, size=128)[0] for engine in ENGINES)  # pyright: ignore[reportArgumentType]
    assert ours.shape == theirs.shape == (12, 128, 128, 3)
    assert np.abs(ours.astype(int) - theirs).mean() < 0.1


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        (["-display_rotation", "90"], np.rot90(UPRIGHT, 1)),  # counter-clockwise
        (["-display_rotation", "180"], np.rot90(UPRIGHT, 2)),
        (["-display_rotation", "270"], np.rot90(UPRIGHT, 3)),
        (["-display_hflip"], np.array(UPRIGHT)[:, ::-1]),
        (["-display_vflip"], np.array(UPRIGHT)[::-1]),
        (["-display_rotation", "180", "-display_hflip"], np.array(UPRIGHT)[::-1]),
        (["-display_rotation", "90", "-display_hflip"], None),  # as ffmpeg shows it
        (["-display_rotation", "270", "-display_hflip"], None),
    ],
)
def test_display_matrices(tmp_path, matrix, shown):
    quadrants(tmp_path / "plain.mp4", yuv("yuv420p"), H264)
    ffmpeg(*matrix, "-i", str(tmp_path / "plain.mp4"), "-c", "copy", str(tmp_path / "turned.mp4"))
    frames = both(tmp_path / "turned.mp4")
    if shown is not None:
        assert np.abs(corners(frames[0]) - shown).max() < 8
    upright = corners(both(tmp_path / "plain.mp4")[0])
    assert np.abs(corners(frames[0]) - upright).max() > 100


@pytest.mark.parametrize(
    "options",
    [
        ["-ss", "0.4"],  # an edit list that begins behind its key frame
        ["-itsoffset", "0.5"],
    ],
)
def test_other_beginnings(tmp_path, options):
    quadrants(tmp_path / "plain.mp4", yuv("yuv420p"), H264)
    ffmpeg(*options, "-i", str(tmp_path / "plain.mp4"), "-c", "copy", str(tmp_path / "cut.mp4"))
    frames = both(tmp_path / "cut.mp4")
    assert len(frames) == (12 if "-itsoffset" in options else 7)


def test_what_is_left_undecoded_changes_nothing(tmp_path, monkeypatch):
    """Frames that nothing refers to are skipped; then none, and the pictures are the same."""
    chain = "noise=alls=40:allf=t," + yuv("yuv420p")
    path = quadrants(tmp_path / "a.mp4", chain, ["-c:v", "libx264", "-bf", "3", "-g", "9"])
    decoded = []
    known = pyav._decoded

    def counted(*args):
        frames = list(known(*args))
        decoded.append(len(frames))
        yield from frames

    monkeypatch.setattr(pyav, "_decoded", counted)
    found = {}
    for skipping in (pyav.SKIPPING, frozenset()):
        monkeypatch.setattr(pyav, "SKIPPING", skipping)
        found[len(skipping)] = [decode(path, frame_step=step, max_frames=most)[0] for step, most in ((4, None), (3, 3))]
    for ours, whole in zip(*found.values(), strict=True):
        assert np.array_equal(ours, whole)
    assert decoded[0] < decoded[2] == 12


def test_a_file_that_is_not_as_its_packets_say_is_decoded_whole(tmp_path):
    path = quadrants(tmp_path / "a.mp4", "noise=alls=40:allf=t," + yuv("yuv420p"), ["-c:v", "libx264", "-bf", "3"])
    whole = path.read_bytes()
    restarts = 0
    for place in range(len(whole) // 3, len(whole), len(whole) // 12):
        path.write_bytes(whole[:place] + bytes(64) + whole[place + 64 :])
        results = []
        for skip in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not skip:
                    patch.setattr(pyav, "SKIPPING", frozenset())
                try:
                    results.append(decode(path, frame_step=4)[0])
                except VideoError as error:
                    results.append(str(error))
        assert np.array_equal(*results)
        restarts += not isinstance(results[0], str)
    assert restarts


@clips
@pytest.mark.slow
def test_the_engines_agree_on_every_clip():
    """Frame count, facts and pictures, on every real file; what one cannot read, the other cannot."""
    with (CLIPS / "MANIFEST.csv").open() as manifest:
        paths = [row["path"] for row in csv.DictReader(manifest)]
    differences, refused = {}, {}
    for path in paths:
        results = []
        for engine in ENGINES:
            try:
                results.append(decode(CLIPS / path, engine, size=128, frame_step=2))  # pyright: ignore[reportArgumentType]
            except VideoError as error:
                results.append(str(error))
        ours, theirs = results
        if isinstance(ours, str) or isinstance(theirs, str):
            refused[path] = (ours, theirs)
            continue
        assert ours[1] == theirs[1], path
        assert ours[0].shape == theirs[0].shape, path
        differences[path] = np.abs(ours[0].astype(np.int16) - theirs[0]).mean(axis=(1, 2, 3)).max()
    assert all(isinstance(side, str) for pair in refused.values() for side in pair), refused
    assert len(differences) > 60
    assert max(differences.values()) < 1.5, differences

"""MP4 files decode to the frames that went in; tilings are written out by hand."""

import resource

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from pipeline.data.shapes_files import encode
from pipeline.errors import UserError, writing
from pipeline.media import video
from pipeline.media.grid import GREY, enlarge, fitting, spread, tile, write_png
from pipeline.media.video import write_gif, write_mp4


def colours(t: int, h: int, w: int) -> np.ndarray:
    """Every pixel of every frame one of a few strong colours."""
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [40, 40, 40]], dtype=np.uint8)
    return palette[np.random.default_rng(0).integers(0, len(palette), (t, h, w))]


def decode(path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), stream


def test_an_enlarged_video_keeps_its_pixels_and_colours(tmp_path):
    frames = colours(5, 8, 8)
    write_mp4(tmp_path / "a.mp4", frames, fps=6.0, enlarged=8)
    decoded, stream = decode(tmp_path / "a.mp4")
    assert decoded.shape == (5, 64, 64, 3)
    assert stream.codec_context.pix_fmt == "yuv420p" and stream.average_rate == 6
    centres = decoded[:, 4::8, 4::8].astype(int)
    assert np.abs(centres - frames).mean() < 4
    assert stream.codec_context.colorspace == 1  # BT.709: browsers guess without it


@pytest.mark.parametrize("write", [write_mp4, encode])
def test_the_same_frames_give_the_same_bytes_whatever_memory_holds(tmp_path, monkeypatch, write):
    """The allocator fills memory with what it is told. MP4s for people, and those of the embedded data set."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8).repeat(14, 1).repeat(14, 2)
    files = [tmp_path / f"{held}.mp4" for held in (0, 85, 165)]
    for file in files:
        monkeypatch.setenv("MALLOC_PERTURB_", file.stem)
        write(frames, file, 8) if write is encode else write(file, frames, 8)
    assert len({file.read_bytes() for file in files}) == 1
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_odd_sizes_and_single_frames_play(tmp_path):
    write_mp4(tmp_path / "odd.mp4", colours(1, 7, 9), fps=1.0)
    assert decode(tmp_path / "odd.mp4")[0].shape == (1, 8, 10, 3)


def test_what_is_no_video_is_refused(tmp_path):
    for wrong in (np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.float32)):
        with pytest.raises((ValueError, TypeError)):
            write_mp4(tmp_path / "a.mp4", wrong, fps=5.0)
    assert not list(tmp_path.iterdir())


def test_tiles_in_reading_order():
    videos = np.stack([np.full((2, 2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = tile(videos, columns=2)
    assert sheet.shape == (2, 5, 5, 3)
    g = GREY
    expected = [
        [10, 10, g, 20, 20],
        [10, 10, g, 20, 20],
        [g, g, g, g, g],
        [30, 30, g, g, g],
        [30, 30, g, g, g],
    ]
    assert sheet[1, :, :, 0].tolist() == expected


def test_enlarging_and_spreading():
    pixel = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, -1)  # 4 frames of one
    assert enlarge(pixel, 2).shape == (4, 2, 2, 3)
    assert spread(16, 4) == [0, 5, 10, 15] and spread(2, 4) == [0, 1]
    assert fitting(32, 224) == 7 and fitting(300, 224) == 1


def test_png(tmp_path):
    picture = colours(1, 3, 4)[0]
    write_png(tmp_path / "p.png", picture, enlarged=2)
    with Image.open(tmp_path / "p.png") as image:
        assert np.array_equal(np.asarray(image)[::2, ::2], picture)


def test_a_gif_keeps_few_colours_exactly_and_loops(tmp_path):
    frames = colours(4, 6, 10)
    for name in ("a.gif", "b.gif"):
        write_gif(tmp_path / name, frames, fps=12.5)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0 and image.info["duration"] == 80
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert np.array_equal(np.stack(shown), frames)


def test_a_file_that_is_no_video_appears_nowhere(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.gif takes uint8 frames"):
        write_gif(tmp_path / "a.gif", np.zeros((0, 4, 4, 3), np.uint8), fps=5)
    monkeypatch.setattr(video, "_QUALITY", "none such")
    with pytest.raises(RuntimeError, match="ffmpeg failed"):
        write_mp4(tmp_path / "a.mp4", colours(1, 4, 4), 5)
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_grow_is_told_in_ffmpegs_words(tmp_path):
    """Which a signal would end without any."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UserError, match=r"a\.mp4: ffmpeg failed: .*File too large"), writing():
            write_mp4(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), 12.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())

"""Odd sources: joined, paused, of several streams, of colours that few know. Both engines see the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.video.errors import VideoError
from pipeline.data.video.hdr import tone_mapped
from pipeline.data.video.source import VideoFacts
from tests.pipeline.data.video.test_video import decode
from tests.pipeline.data.video.test_video_kinds import ffmpeg

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-threads", "1"]


def pattern(path: Path, *options: str, seconds: int = 2, rate: int = 24, size: str = "64x48") -> Path:
    """A video in which no two frames are the same."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc=size={size}:rate={rate}:duration={seconds}", *H264, *options, str(path))
    return path


def both(path: Path, **options) -> tuple[np.ndarray, VideoFacts]:
    """What both engines make of a file, after a look that it is the same."""
    ours, facts = decode(path, size=32, crop="none", **options)
    theirs, same = decode(path, "ffmpeg", size=32, crop="none", **options)
    assert (facts, ours.shape) == (same, theirs.shape)
    assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 1
    return ours, facts


def different(frames: np.ndarray) -> int:
    return len({frame.tobytes() for frame in frames})


@pytest.mark.parametrize(("first", "second", "seconds"), [(10, 100, "88.0"), (100, 10, "95351.7")])
def test_recordings_that_are_joined_follow_each_other(tmp_path, first, second, seconds):
    """Backwards, the times of MPEG-TS look as if they had begun again at 0, after 26.5 hours."""
    parts = [pattern(tmp_path / f"{at}.ts", "-output_ts_offset", str(at)) for at in (first, second)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, facts = both(joined)
    assert (len(frames), facts.fps, facts.notes) == (96, 24, f"pauses cut out: 1, {seconds} s")
    assert different(frames) == 48 and (frames[:48] == frames[48:]).all()


@pytest.mark.parametrize("stills", [98, 130])
def test_as_many_pauses_as_there_are(tmp_path, stills):
    """A lecture: every picture moves for four frames and then stands for three seconds."""
    frames, pause = 4 * stills, 3 * 12
    chain = f"setpts=N+floor(N/4)*{pause},settb=1/12"
    path = tmp_path / "a.mkv"
    source = f"testsrc=size=32x32:rate=12:duration={stills // 3 + 1}"
    times = ["-vf", chain, "-frames:v", str(frames), "-fps_mode", "passthrough"]
    ffmpeg("-f", "lavfi", "-i", source, *times, *H264, "-bf", "0", str(path))
    shown, facts = both(path)
    assert facts.fps == pytest.approx(12, rel=0.02) and facts.notes.startswith(f"pauses cut out: {stills - 1}, ")
    assert len(shown) == pytest.approx(frames, abs=2)


def test_jitter_is_no_rate(tmp_path):
    """A camera whose frames arrive five at a time, 2 ms apart, 25 a second."""
    path = pattern(tmp_path / "a.mkv", "-vf", "settb=1/1000,setpts='floor(N/5)*200+mod(N,5)*2'", "-fps_mode",
                   "passthrough", "-enc_time_base", "1:1000", "-bf", "0", rate=25, seconds=4)  # fmt: skip
    _, facts = decode(path)
    assert facts.fps == pytest.approx(25, rel=0.05) and facts.notes == ""


@pytest.mark.parametrize("name", ["a.mpg", "a.vob"])
@pytest.mark.parametrize(("quality", "b_frames"), [(0, 0), (0, 3), (23, 0), (40, 3)])  # 36, 36, 9 and 3 say it
def test_frames_are_counted_where_few_say_their_time(tmp_path, name, quality, b_frames):
    """In MPEG-PS, H.264 says the time of the first frame that begins in a packet of 2 KB."""
    size = "64x48" if quality else "96x64"
    path = pattern(tmp_path / name, "-crf", str(quality), "-bf", str(b_frames), size=size)
    frames, facts = both(path)
    assert (len(frames), different(frames)) == (48, 48)
    assert (facts.fps, facts.seconds, facts.notes) == (24, 2, "times of few frames, taken as even")
    assert both(path, frame_step=None, fps=12.0)[0].tobytes() == frames[::2].tobytes()


def test_a_pause_is_none_where_frames_are_counted(tmp_path):
    parts = [pattern(tmp_path / f"{at}.mpg", "-output_ts_offset", str(at)) for at in (10, 100)]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, facts = both(joined)
    assert (len(frames), different(frames), facts.fps) == (96, 48, 24)


def test_of_streams_as_long_as_each_other_the_largest_is_the_film(tmp_path):
    film, proxy = "testsrc=size=96x64:rate=24:duration=2", "color=red:size=64x48:rate=25:duration=2.05"
    path = tmp_path / "a.ts"
    ffmpeg("-f", "lavfi", "-i", proxy, "-f", "lavfi", "-i", film, "-map", "0", "-map", "1", *H264, str(path))
    assert both(path)[1].width == 96


def test_times_that_go_back_are_named(tmp_path):
    parts = [pattern(tmp_path / f"{at}.flv", "-output_ts_offset", str(at)) for at in (10, 0)]
    joined = tmp_path / "joined.flv"
    joined.write_bytes(parts[0].read_bytes() + parts[1].read_bytes()[13:])  # without its file header
    for engine in ("pyav", "ffmpeg"):
        with pytest.raises(VideoError, match=r"^its times go back by 12\.0 s: recordings joined"):
            decode(joined, engine)


def test_a_pause_is_cut_out_and_the_motion_keeps_its_rate(tmp_path):
    still = "select='not(between(t,3,33))'"
    frames, facts = both(pattern(tmp_path / "a.mp4", "-vf", still, "-fps_mode", "vfr", seconds=36, rate=30))
    assert (facts.fps, facts.notes) == (30, "pauses cut out: 1, 30.0 s")
    assert len(frames) == different(frames) == 179
    some, _ = both(tmp_path / "a.mp4", frame_step=4, max_frames=30)
    assert (some == frames[:120:4]).all()


def test_frames_that_are_left_out_for_an_even_rate_are_told(tmp_path):
    """A gap too short for a pause: the average is 0.68 of the motion's rate, and wins."""
    gap = "select='not(between(t,2,3.9))'"
    frames, facts = both(pattern(tmp_path / "a.mp4", "-vf", gap, "-fps_mode", "vfr", seconds=6, rate=24))
    assert facts.notes == f"uneven, brought to {facts.fps:.3g} frames a second" and 16 < facts.fps < 17
    assert len(frames) == pytest.approx(6 * facts.fps, abs=2)
    assert not both(pattern(tmp_path / "b.mp4", rate=24))[1].notes


def test_a_gif_is_a_video_by_its_own_times(tmp_path):
    """Hundredths of a second, 12 frames a second: 8, 8, 9, … of them. Frames are stored as what differs."""
    images = []
    for number in range(24):
        image = Image.new("RGB", (32, 32), (40, 80, 120))
        image.paste((200, 10 * number, 0), (number, 4, number + 8, 12))
        images.append(image)
    times = [80, 80, 90] * 8
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=times, loop=0)
    frames, facts = both(tmp_path / "a.gif")
    assert (facts.codec, facts.notes, facts.seconds) == ("gif", "", 2.0) and facts.fps == pytest.approx(12, rel=0.01)
    assert np.abs(frames.astype(int) - np.stack([np.asarray(image) for image in images])).max() <= 1
    assert both(tmp_path / "a.gif", frame_step=None, fps=6.0)[0].tobytes() == frames[::2].tobytes()
    images[0].save(tmp_path / "still.gif")
    with pytest.raises(VideoError, match="a GIF of a single picture"):
        decode(tmp_path / "still.gif")


def test_a_gif_has_the_frames_that_its_writer_made_one_of(tmp_path):
    """Pillow stores frames that are alike once, shown for longer: here 24 at 12 a second, as 8, 8, 9, … hundredths."""
    shown = [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18, 18]
    images = [Image.new("RGB", (32, 32), (10 * number, 200, 0)) for number in range(19)]
    first, *rest = (images[number] for number in shown)
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=[80, 80, 90] * 8, loop=0)
    frames, facts = both(tmp_path / "a.gif")
    assert facts.fps == pytest.approx(12, rel=0.02) and facts.notes.startswith("uneven, brought to 1")
    assert [round(int(frame[0, 0, 0]) / 10) for frame in frames] == shown


@pytest.mark.parametrize("default", [0, 1])
def test_the_film_is_the_stream_that_players_show(tmp_path, default):
    """A large default one behind a small one; a thumbnail of one frame, which is the default, before the film."""
    path = tmp_path / ("a.mp4" if default == 0 else "a.mkv")
    rate = 1 if default == 0 else 24
    small, film = f"color=red:size=64x48:rate={rate}:duration=1", "testsrc=size=96x64:rate=24:duration=3"
    shown = ["-disposition:v:0", "default" if default == 0 else "0", "-disposition:v:1", "default" if default else "0"]
    ffmpeg("-f", "lavfi", "-i", small, "-f", "lavfi", "-i", film, "-map", "0", "-map", "1", *H264, *shown, str(path))
    frames, facts = both(path)
    assert (len(frames), facts.width, facts.height, facts.notes) == (72, 96, 64, "video stream 2 of 2")


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 14])
def test_a_matrix_that_swscale_does_not_know_is_taken_as_none(tmp_path, matrix):
    plain = pattern(tmp_path / "plain.mp4", seconds=1)
    tag = f"h264_metadata=matrix_coefficients={matrix}"
    ffmpeg("-i", str(plain), "-c", "copy", "-bsf:v", tag, str(tmp_path / "odd.mp4"))
    frames, facts = both(tmp_path / "odd.mp4")
    assert facts.notes == f"colour matrix {matrix} taken as an unnamed one"
    assert (frames == both(plain)[0]).all()


def test_a_rotation_that_the_first_frame_alone_tells_is_that_of_all(tmp_path):
    plain = pattern(tmp_path / "plain.mp4", seconds=1)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-i", str(plain), "-c", "copy", "-bsf:v", "h264_metadata=display_orientation=insert:rotate=90", str(turned))
    frames, _ = both(turned)
    upright, _ = both(plain)
    assert len(frames) == 24
    assert (np.abs(frames.astype(int) - np.rot90(upright, axes=(1, 2))).mean(axis=(1, 2, 3)) < 3).all()


@pytest.mark.parametrize(("name", "transfer"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_a_high_dynamic_range_is_mapped_or_left_out(tmp_path, name, transfer):
    chain = f"format=yuv420p10le,setparams=color_primaries=bt2020:color_trc={name}:colorspace=bt2020nc"
    path = pattern(tmp_path / "a.mp4", "-vf", chain, seconds=1)
    _, facts = both(path)
    assert facts.notes == f"{transfer} brought to standard dynamic range"
    with pytest.raises(VideoError, match=f"^high dynamic range .{transfer}.; decode.hdr: tone-map keeps it$"):
        decode(path, hdr="leave-out")


def grey(level: float, transfer) -> int:
    image = np.full((1, 1, 3), round(level * 255), np.uint8)
    red, green, blue = tone_mapped(image, transfer)[0, 0].tolist()
    assert max(red, green, blue) - min(red, green, blue) <= 1
    return green


def test_what_reference_levels_become():
    """BT.2408: a grey card at 38 % of either signal is 26 nits, white at 58 % of PQ and 75 % of HLG is 203 nits."""
    card = 255 * (26 / 203) ** (1 / 2.4)
    assert [grey(0.38, transfer) for transfer in ("PQ", "HLG")] == pytest.approx([card, card], abs=2)
    assert grey(0.58, "PQ") == pytest.approx(grey(0.75, "HLG"), abs=2)
    for transfer in ("PQ", "HLG"):
        shown = [grey(level, transfer) for level in np.linspace(0, 1, 18)]
        assert shown == sorted(shown) and (shown[0], shown[-1]) == (0, 255)


def test_colours_of_the_smaller_gamut_stay():
    """Red of BT.709 at a quarter of white, in BT.2020's primaries (BT.2087), as PQ."""
    nits = 203 * 0.25 * np.array([0.6274, 0.0691, 0.0164]) / 10000
    power = nits ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    red, green, blue = tone_mapped(np.rint(255 * signal).astype(np.uint8)[None, None], "PQ")[0, 0].tolist()
    assert red == pytest.approx(255 * 0.25 ** (1 / 2.4), abs=3) and max(green, blue) < 40


@pytest.mark.parametrize(("kept", "frames"), [("not(mod(n,2))", 24), ("not(mod(n,3))", 16), ("mod(n,3)", 32)])
@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.flv", "a.ts", "a.mxf", "b.mp4", "b.mkv", "a.mov", "a.wmv", "a.ogv"]
)
def test_a_last_frame_ends_where_its_packet_says(tmp_path, name, kept, frames):
    """Of each the file says 1/24 s, or as long as those before: less than half a tick is one, too."""
    codecs = {"a.mov": ["-c:v", "mjpeg"], "a.wmv": ["-c:v", "wmv2"], "a.ogv": ["-c:v", "libtheora"]}
    codec = codecs.get(name, ["-c:v", "libx264", "-bf", "0" if name[0] == "a" else "2"])
    some = ["-vf", f"select='{kept}'", "-fps_mode", "passthrough", *codec, "-threads", "1"]
    found, _ = both(pattern(tmp_path / name, *some))
    assert len(found) >= frames

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.data.shapes_files import encode
from pipeline.data.video.errors import VideoError
from pipeline.data.video.frames import decode_video
from pipeline.data.video.pyav import scaled_size
from pipeline.data.video.source import VideoFacts

CLIPS = Path(__file__).parents[5] / "shared" / "clips"
clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not beside this checkout")
ENGINES = ["pyav", "ffmpeg"]


class Frames:
    """A sink that keeps what comes."""

    def __init__(self):
        self.frames: list[np.ndarray] = []
        self.cleared = 0

    def put(self, frame: np.ndarray) -> None:
        self.frames.append(frame.copy())

    def clear(self) -> None:
        self.frames.clear()
        self.cleared += 1


def decode(path: Path, engine: Any = "pyav", **changed: Any) -> tuple[np.ndarray, VideoFacts]:
    options: dict[str, Any] = {"frame_step": 1, "size": 16, "crop": "center", "hdr": "tone-map", "max_frames": None}
    options["timeout"] = 60.0
    sink = Frames()
    facts = decode_video(path, sink, engine=engine, **{**options, **changed})
    return np.stack(sink.frames), facts


def greys(path: Path, engine: Any, **changed: Any) -> list[int]:
    """Which of the frames 0, 1, … of a video of frames 20 grey levels apart are shown."""
    frames, _ = decode(path, engine, **changed)
    return [round(float(frame.mean()) / 20) for frame in frames]


def write(path: Path, times: list[float], aspect: Fraction = Fraction(1), rate: int = 10) -> Path:
    """An H.264 video: frame i, at times[i] tenths of a second, is of grey level 20 i; `rate` is the header's."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "bf": "2"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.sample_aspect_ratio = aspect
        for number, moment in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base, frame.duration = round(moment * 100), Fraction(1, 1000), 1000 // rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_every_nth_frame(tmp_path, engine):
    path = write(tmp_path / "a.mp4", list(range(10)))
    assert greys(path, engine) == list(range(10))
    assert greys(path, engine, frame_step=3) == [0, 3, 6, 9]
    assert greys(path, engine, frame_step=4, max_frames=2) == [0, 4]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("fps", "shown"),
    [
        (10, list(range(12))),
        (5, [0, 2, 4, 6, 8, 10]),
        (4, [0, 2, 5, 7, 10]),  # at 0, 0.25, 0.5, 0.75 and 1 s
        (7.5, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (2, [0, 5, 10]),
        (0.02, [0]),
        (15, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11]),
        (20, sorted(2 * list(range(12)))),
        (9.97, list(range(12))),
        (4.99, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_frames_a_second(tmp_path, engine, fps, shown):
    path = write(tmp_path / "a.mp4", list(range(12)))
    chosen = {"frame_step": None, "fps": float(fps)}
    assert greys(path, engine, **chosen) == shown
    assert greys(path, engine, **chosen, max_frames=3) == shown[:3]
    _, facts = decode(path, engine, **chosen)
    assert facts.fps == 10 and facts.seconds == 1.2
    assert facts.notes == ("10 frames a second, repeated for decode.fps" if fps > 10 else "")


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_a_second_of_an_uneven_rate(tmp_path, engine):
    path = write(tmp_path / "a.mp4", [0, 1, 2, 3, 8, 9])  # 10 a second: 0 1 2 3 3 3 3 3 4 5
    assert greys(path, engine, frame_step=None, fps=5.0) == [0, 2, 3, 3, 4]
    assert decode(path, engine, frame_step=None, fps=20.0)[1].notes == (
        "uneven, brought to 10 frames a second; 10 frames a second, repeated for decode.fps"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_milliseconds_lose_no_frame(tmp_path, engine):
    times = [10 * round(number / 30, 3) for number in range(12)]  # 30 frames a second: 0, 33, 67, 100 ms …
    assert greys(write(tmp_path / "a.mkv", times, rate=30), engine) == list(range(12))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_uneven_rate_becomes_that_of_the_motion(tmp_path, engine):
    # The header says 5.56 a second, on average. Most frames follow each other after 0.1 s.
    path = write(tmp_path / "a.mp4", [0, 1, 2, 3, 8, 9])
    _, facts = decode(path, engine)
    assert (facts.fps, facts.notes) == (10, "uneven, brought to 10 frames a second")
    assert greys(path, engine) == [0, 1, 2, 3, 3, 3, 3, 3, 4, 5]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rate_that_differs_a_little_is_the_average(tmp_path, engine):
    # Six frames take 0.7 s: the times are 0, 0.9, 1.7, 2.6, 3.4, 5.1 and 6 ticks.
    path = write(tmp_path / "a.mp4", [0, 1, 2, 3, 4, 6, 7])
    _, facts = decode(path, engine)
    assert (facts.fps, facts.notes) == (pytest.approx(6 / 0.7), "uneven, brought to 8.57 frames a second")
    assert greys(path, engine) == [0, 1, 2, 4, 4, 5, 6]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_late_first_frame_is_the_first(tmp_path, engine):
    assert greys(write(tmp_path / "a.mkv", [7, 8, 9, 10]), engine) == [0, 1, 2, 3]


def test_scaled_size():
    assert scaled_size(340, 256, Fraction(1), 128, "center") == (170, 128)
    assert scaled_size(256, 340, Fraction(1), 128, "center") == (128, 170)
    assert scaled_size(320, 240, Fraction(1, 2), 120, "center") == (120, 180)  # 160x240 in square pixels
    assert scaled_size(340, 256, Fraction(1), 128, "none") == (128, 128)
    assert scaled_size(1, 1, Fraction(1), 16, "center") == (16, 16)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("crop", ["center", "none"])
def test_the_square_in_the_middle(tmp_path, engine, crop):
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, :32, 0] = frame[:, 32:64, 1] = frame[:, 64:, 2] = 255
    encode(np.stack([frame] * 4), tmp_path / "a.mp4", 10)
    image = decode(tmp_path / "a.mp4", engine, crop=crop)[0][1].astype(int)
    if crop == "center":
        assert (image[:, 2:-2].argmax(-1) == 1).all()
    else:
        assert image[8, [1, 8, 14]].argmax(-1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_anamorphic_pixels_are_squared(tmp_path, engine):
    """32x32 coded, shown 64x32: the square in the middle is 16 coded columns."""
    path = write(tmp_path / "a.mkv", [0, 1], aspect=Fraction(2))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    frames, facts = decode(path, engine)
    assert frames.shape == (2, 16, 16, 3)
    assert (facts.width, facts.height, facts.codec) == (32, 32, "h264")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"x", "not a readable video"), (b"version https://git-lfs", "not a readable video")],
)
def test_reasons(tmp_path, engine, content, reason):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        decode(tmp_path / "a.mp4", engine)


def test_more_reasons(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        decode(tmp_path / "none.mp4")
    path = write(tmp_path / "a.mp4", list(range(12)))
    for engine in ENGINES:
        with pytest.raises(VideoError, match="longer than decode"):
            decode(path, engine, timeout=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
    ],
)
def test_a_playlist_named_mp4_is_not_read(tmp_path, engine, playlist):
    real = write(tmp_path / "real.mp4", [0, 1, 2])
    fake = tmp_path / "fake.mp4"
    for reference in (real.name, str(real), f"file:{real}"):
        fake.write_text(playlist.format(path=reference))
        with pytest.raises(VideoError, match="not a readable video"):
            decode(fake, engine)


@clips
@pytest.mark.parametrize(
    "name",
    [
        *("kinetics/train/tai chi/Vhq58hDxlFE_000021_000031.mp4", "misc/sample.3gp", "misc/bbb_1s.webm"),
        *("kinetics/train/flipping pancake/7rSoYrzzGvE_000013_000023.mkv", "nasty/var_fps_video.mp4"),
        *("nasty/portrait.MOV", "nasty/video_90.mov", "nasty/video_180.mov", "nasty/video_270.mov"),
        *("nasty/delayed_start.mp4", "nasty/weird_aspect.small.mpg", "nasty/awesome'movie.mov", "nasty/ios9.mov"),
        *("nasty/Test_badrate.ogv", "nasty/bt709_full_range.mp4", "nasty/unordered.mov"),
    ],
)
def test_the_engines_agree_on_real_files(name):
    ours, facts = decode(CLIPS / name, size=64, frame_step=2)
    theirs, same = decode(CLIPS / name, "ffmpeg", size=64, frame_step=2)
    assert facts == same
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 1.5


@clips
def test_a_nasty_file_gives_frames_or_a_reason():
    with (CLIPS / "MANIFEST.csv").open() as manifest:
        expected = {row["path"]: row["decode"] for row in csv.DictReader(manifest) if row["path"].startswith("nasty/")}
    found = {}
    for path in expected:
        try:
            found[path] = "ok" if len(decode(CLIPS / path, size=16, frame_step=4, max_frames=8)[0]) else "empty"
        except VideoError as error:
            found[path] = f"fails: {error}"
    for path, outcome in expected.items():
        if outcome != "errors":  # some frames are damaged: the rest is kept
            assert found[path].startswith(outcome), (path, found[path])
    reasons = "\n".join(found.values())
    for reason in ("0 bytes", "no video stream", "damaged: the header says 41.6 s", "not a readable video"):
        assert reason in reasons


@pytest.mark.parametrize("engine", ENGINES)
def test_metadata_that_is_not_utf8_costs_nothing(tmp_path, engine):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafXX"
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"cafXX", b"caf\xe9\xff"))
    assert len(decode(path, engine)[0]) == 3

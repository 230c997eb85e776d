"""Headers that claim sizes, times and counts which nothing could hold: damage, in bounded time and memory."""

import struct
import subprocess
import sys
from pathlib import Path

import av
import pandas as pd
import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.video.errors import TooLate, VideoError
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import params
from tests.pipeline.data.test_decode_hostile import frames_of, read
from tests.pipeline.data.video import test_video
from tests.pipeline.data.video.test_video import ENGINES
from tests.pipeline.data.video.test_video_kinds import H264, ffmpeg, quadrants, yuv


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", [9000, 20_000, 100_000])
def test_a_header_that_claims_too_many_pixels(tmp_path, engine, side):
    """FFV1 has no size but the container's. Above 2^26 pixels the decoder is not even opened."""
    quadrants(tmp_path / "small.avi", yuv("yuv420p"), ["-c:v", "ffv1"])
    small = (tmp_path / "small.avi").read_bytes()
    assert len(read(small, tmp_path / "a.avi", engine)) == 12
    with pytest.raises(VideoError, match="no frame decodes"):
        read(small.replace(struct.pack("<II", 96, 64), struct.pack("<II", side, side)), tmp_path / "a.avi", engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_frame_that_would_be_too_large_when_square(tmp_path, engine):
    quadrants(tmp_path / "a.mkv", "format=gbrp", ["-c:v", "ffv1"], (2, 30_000))
    with pytest.raises(VideoError):
        test_video.decode(tmp_path / "a.mkv", engine, size=128)


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_that_become_too_large(tmp_path, engine):
    """A stream of 64x64 pixels that goes on with 8400x8400, above the limit: those are damage, and the rest is kept."""
    parts = []
    for side, frames in ((64, 100), (8400, 1)):
        part = tmp_path / f"{side}.h264"
        ffmpeg("-f", "lavfi", "-i", f"testsrc=s={side}x{side}:r=25", "-frames:v", str(frames), *H264, str(part))
        parts.append(part.read_bytes())
    assert len(read(b"".join(parts), tmp_path / "a.h264", engine)) in (100, 101)


YEARS = 10 * 365 * 86400


def leaping(plain: Path, path: Path, *, packets: int, leap: float = 0, last: float | None = None) -> Path:
    """The first packets of a film, the second half of them `leap` seconds later, the last one `last` seconds long."""
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number == packets:
                break
            assert packet.pts is not None
            assert packet.dts is not None
            assert packet.time_base is not None
            packet.stream = stream
            if number >= packets // 2:
                packet.pts += int(leap / packet.time_base)
                packet.dts += int(leap / packet.time_base)
            if last is not None and number == packets - 1:
                packet.duration = int(last / packet.time_base)
            out.mux(packet)
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_frames", [None, 10_000])
@pytest.mark.parametrize(
    ("packets", "leap", "last", "reason"),
    [
        (2, YEARS, None, "no believable frame rate"),
        (1, 0, YEARS, "damaged times"),
        (12, 0, YEARS, "damaged times"),
    ],
)
def test_times_of_years_fill_no_disk(tmp_path, engine, max_frames, packets, leap, last, reason):
    plain = quadrants(tmp_path / "plain.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    path = leaping(plain, tmp_path / "a.mkv", packets=packets, leap=leap, last=last)
    with pytest.raises(VideoError, match=reason):
        test_video.decode(path, engine, max_frames=max_frames)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("packets", [3, 12])
def test_years_between_two_frames_are_a_pause(tmp_path, engine, packets):
    plain = quadrants(tmp_path / "plain.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    frames, facts = test_video.decode(leaping(plain, tmp_path / "a.mkv", packets=packets, leap=YEARS), engine)
    assert len(frames) == packets and facts.notes.startswith("pauses cut out: 1, ")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_may_stand_for_a_while(tmp_path, engine):
    plain = quadrants(tmp_path / "plain.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    frames, _ = test_video.decode(leaping(plain, tmp_path / "a.mkv", packets=12, last=20), engine)
    assert len(frames) == 11 + 20 * 12


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_decodes_slowly_meets_its_deadline(tmp_path, engine):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x480:r=25:d=40", *H264, str(tmp_path / "a.mp4"))
    with pytest.raises(TooLate):
        test_video.decode(tmp_path / "a.mp4", engine, timeout=0.15)


def test_a_header_cannot_ask_for_all_memory(tmp_path):
    """A file of 3 KB whose tables say that it holds 2^26 samples: libav would make 2.4 GB of an index."""
    project, chosen = Paths(tmp_path), params(max_failed=1.0, min_frames=1)
    (tmp_path / "videos").mkdir()
    good = quadrants(tmp_path / "videos" / "good.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    content = bytearray(good.read_bytes())
    for name, fields in (("stsz", (1, 2**26)), ("stsc", (1, 1, 2**26, 1)), ("stts", (1, 2**26, 512))):
        struct.pack_into(f">{len(fields)}I", content, content.index(name.encode()) + 8, *fields)
    (tmp_path / "videos" / "bad.mp4").write_bytes(content)
    prepare_listing(chosen, project)
    decode(chosen, project, 1)
    assert list(frames_of(project)) == ["good.mp4"]
    assert pd.read_csv(project.pyramid / "failed.csv")["path"].tolist() == ["bad.mp4"]
    program = (
        "import resource, sys, time; from pathlib import Path; from pipeline.data.video.source import examine\n"
        "before = resource.getrusage(0)\n"
        "try: examine(Path(sys.argv[1]), time.monotonic() + 60)\n"
        "except Exception: pass\n"
        "assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY\n"
        "print(resource.getrusage(0).ru_maxrss - before.ru_maxrss)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "videos" / "bad.mp4")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 100_000  # kB

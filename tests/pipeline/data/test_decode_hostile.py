"""Broken and malicious files, and what is no video: each is kept or listed with a reason, and costs no other."""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import zarr
from av.error import FFmpegError

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.video.errors import TooLate, VideoError
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import params
from tests.pipeline.data.video import test_video
from tests.pipeline.data.video.test_video import CLIPS, ENGINES, clips
from tests.pipeline.data.video.test_video_kinds import H264, ffmpeg, quadrants, yuv

BARE = ("Invalid data found", "Invalid argument", "End of file", "Errno", "Traceback", "@ 0x", "b'", "<av.", "Error(")


def frames_of(project: Paths) -> dict[str, tuple[np.ndarray, ...]]:
    """Both views of every video that was kept."""
    table = pd.read_parquet(project.pyramid / "videos.parquet")
    views = [np.asarray(zarr.open_array(project.pyramid, path=f"level-{level}", mode="r")) for level in (1, 2)]
    rows = zip(table["path"], table["row"], table["n_frames"], strict=True)
    return {path: (views[0][row, : -(-count // 2)], views[1][row, :count]) for path, row, count in rows}


def read(content: bytes, path: Path, engine: str, **options: Any) -> np.ndarray:
    path.write_bytes(content)
    return test_video.decode(path, engine, **options)[0]


@clips
@pytest.mark.parametrize("engine", ENGINES)
def test_every_clip_is_kept_or_listed_with_a_reason(tmp_path, engine):
    project, chosen = Paths(tmp_path), params(max_failed=1.0, frame_step=8, engine=engine, shard_videos=8)
    for folder in ("nasty", "misc"):
        shutil.copytree(CLIPS / folder, tmp_path / "videos" / folder)
    prepare_listing(chosen, project)
    decode(chosen, project, 2)
    kept = frames_of(project)
    failed = pd.read_csv(project.pyramid / "failed.csv")
    files = {str(path.relative_to(tmp_path / "videos")) for path in (tmp_path / "videos").glob("*/*")}
    assert sorted([*kept, *failed["path"]]) == sorted(files)
    assert all(len(top) and top.any() for _, top in kept.values())
    reasons = dict(zip(failed["path"].str.removeprefix("nasty/"), failed["reason"], strict=True))
    for name, words in {
        "zero_bytes.webm": "0 bytes",
        "one_byte.mp4": "ends behind byte 1",
        "WrongFile.mp4": "ends behind byte 48",
        "empty.flv": "ends behind byte 13",
        "git_lfs_pointer.mp4": "a Git LFS pointer",
        "broken.mp4": "index (moov) is missing or damaged",
        "chunk_out_of_range.mp4": "index (moov) is missing or damaged",
        "audio_only_52s.mp4": "sound alone",
        "audio_only_stub.mp4": "sound alone",
        "short-cenc.mp4": "encrypted",
        "bipbop_nonfragment_header.mp4": "no frame decodes",
        "invalid_userdata.mp4": "no frame decodes",
        "zero_empty_stsc.mp4": "no frame decodes",
    }.items():
        assert words in reasons.pop(name)
    assert not reasons
    assert not [reason for reason in failed["reason"] for bare in BARE if bare in reason]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html>\n<title>404</title>" * 20, "text that begins '<!doctype html> <title>"),
        (b'{"error": "video unavailable"}', 'text that begins \'{"error"'),
        (bytes(range(256)) * 40, "of no known format"),
        (bytes(4000), "of no known format"),
    ],
)
def test_what_is_no_video(tmp_path, engine, content, reason):
    with pytest.raises(VideoError, match=re.escape(reason)):
        read(content, tmp_path / "a.mp4", engine)


# Small files of many containers and codecs; longer ones are cut off here, which is one more thing to bear.
SOURCES = (
    *("misc/sample.3gp", "misc/bbb_1s.webm", "misc/Test.ogv", "nasty/clip1024.flv"),
    *("nasty/av1_video.mkv", "nasty/video_90.mov", "nasty/h265_video.mp4", "nasty/var_fps_video.mp4"),
    *("nasty/transparent.webm", "nasty/weird_aspect.small.mpg", "nasty/delayed_start.mp4"),
    "kinetics/train/tai chi/Vhq58hDxlFE_000021_000031.mp4",
    "kinetics/train/flipping pancake/7rSoYrzzGvE_000013_000023.mkv",
)
MADE = {
    "made.avi": ["-c:v", "mpeg4", "-bf", "2"],
    "made.ts": ["-c:v", "libx264", "-bf", "3"],
    "made.wmv": ["-c:v", "wmv2"],
    "made.mp4": ["-c:v", "libx264", "-bf", "2"],
    "made.mkv": ["-c:v", "mpeg2video"],
    "made.webm": ["-c:v", "libvpx", "-b:v", "300k"],
    "made.gif": [],
}
LARGEST = 150_000


def sources(folder: Path) -> dict[str, bytes]:
    """Small files of several kinds, and the real clips where they are."""
    found = {name: (CLIPS / name).read_bytes()[:LARGEST] for name in SOURCES if CLIPS.is_dir()}
    for name, options in MADE.items():
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x96:r=25:d=2", *options, str(folder / name))
        found[name] = (folder / name).read_bytes()
    return found


def mutant(whole: bytes, other: bytes, seed: int) -> bytes:
    """A file with bytes changed, cut off, or with a piece taken out, doubled, or taken from another file."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    first, last = sorted(rng.integers(0, len(data), 2).tolist())
    last = min(last, first + 20_000)
    kind = seed % 6
    if kind < 2:  # headers lie at both ends
        reach = len(data) if kind else min(len(data), 3000)
        for place in rng.integers(0, reach, rng.integers(1, 40)).tolist():
            place = place if rng.random() < 0.7 else len(data) - 1 - place
            data[place] = rng.integers(256)
    elif kind == 2:
        del data[first:]
    elif kind == 3:
        del data[first:last]
    elif kind == 4:
        data[first:first] = data[first:last]
    else:
        place = int(rng.integers(0, len(other)))
        data[first:last] = other[place : place + last - first]
    return bytes(data)


@pytest.mark.parametrize("mutants", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_cost_no_neighbour(tmp_path, mutants):
    """Broken files, an intact one behind every tenth: no crash, no hang, and the intact ones are what they were."""
    whole = sources(tmp_path)
    names = list(whole)
    chosen = params(max_failed=1.0, shard_videos=16, max_frames=16, timeout=30)
    alone, among = Paths(tmp_path / "alone"), Paths(tmp_path / "among")
    for number in range(mutants):
        name, other = names[number % len(names)], names[(number * 7 + 3) % len(names)]
        broken = among.root / "videos" / f"{number:03d}-mutant{Path(name).suffix}"
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes(mutant(whole[name], whole[other], number))
        if number % 10 == 0:
            intact = names[number // 10 % len(names)]
            for project in (alone, among):
                path = project.root / "videos" / f"{number:03d}-whole{Path(intact).suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(whole[intact])
    for project in (alone, among):
        prepare_listing(chosen, project)
        decode(chosen, project, 2)
    expected, kept = frames_of(alone), frames_of(among)
    assert len(expected) == mutants // 10
    for path, views in expected.items():
        assert all(np.array_equal(*pair) for pair in zip(kept[path], views, strict=True)), path
    failed = pd.read_csv(among.pyramid / "failed.csv")
    assert len(kept) + len(failed) == mutants + mutants // 10
    stopped = failed[failed["reason"].str.contains("crashed|hung|timeout")]
    assert stopped.empty, stopped
    assert not [reason for reason in failed["reason"] for bare in BARE if bare in reason]
    assert mutants / 15 < len(failed) < mutants / 1.5  # they are broken, and not beyond hope
    assert not any(top.shape[0] == 0 for _, top in kept.values())


class Listener:
    """A port of this machine that counts who comes."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.came = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.came += 1
            visitor.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def playlists(target: Path, address: str) -> dict[str, bytes]:
    """Files that name another one, on this disk or behind a port of this machine."""
    places = {
        "file": target,
        "http": f"http://{address}/a.ts",
        "tcp": f"tcp://{address}",
        "concat": f"concat:{target}",
        "subfile": f"subfile,,start,0,end,0,,:{target}",
        "data": "data:video/mp2t;base64,R0AREA==",
    }
    found = {}
    for name, place in places.items():
        found[f"hls-{name}"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\n{place}\n#EXT-X-ENDLIST\n"
        found[f"concat-{name}"] = f"ffconcat version 1.0\nfile '{place}'\n"
    found["dash"] = f"""<?xml version="1.0"?>
        <MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" minBufferTime="PT1S">
        <Period duration="PT1S"><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"
        codecs="avc1.42c00d" width="96" height="64"><BaseURL>http://{address}/a.mp4</BaseURL><SegmentBase/>
        </Representation></AdaptationSet></Period></MPD>"""
    host, port = address.split(":")
    found["sdp"] = f"v=0\no=- 0 0 IN IP4 {host}\ns=a\nc=IN IP4 {host}\nt=0 0\nm=video {port} RTP/AVP 96\n"
    found["rtsp"] = f"RTSPtext\nrtsp://{address}/a\n"
    return {name: text.encode() for name, text in found.items()}


def elsewhere(whole: bytes, target: Path) -> bytes:
    """An MP4 file without pictures, whose index says that they lie in another file (a macOS alias)."""
    path = str(target).encode()
    alias = struct.pack(">10xB27s12xB63s16xHH16x", 1, b"v", len(target.name), target.name.encode(), 0, 1)
    alias += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    data = bytearray(whole)
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[begin:end] = bytes(end - begin)
    place = data.index(b"dref") + 12
    data[place : place + 12] = entry
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = data.index(box) - 4
        data[place : place + 4] = struct.pack(">I", struct.unpack_from(">I", data, place)[0] + len(entry) - 12)
    return bytes(data)


def followed(path: Path) -> int:
    """Frames that libav reads where it is allowed to go anywhere."""
    options = {
        **{"protocol_whitelist": "file,http,tcp,concat,subfile,data", "safe": "0", "allowed_extensions": "ALL"},
        **{"extension_picky": "0", "enable_drefs": "1", "use_absolute_path": "1"},
    }
    try:
        with av.open(str(path), options=options, timeout=2) as container:
            return sum(1 for _ in container.decode(video=0))
    except FFmpegError:
        return 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_no_file_leads_to_another(tmp_path, listener, engine, suffix):
    target = quadrants(tmp_path / "target.mp4", yuv("yuv420p"), H264)
    ffmpeg("-i", str(target), "-c", "copy", str(tmp_path / "target.ts"))
    files = playlists(tmp_path / "target.ts", listener.address) | {"alias": elsewhere(target.read_bytes(), target)}
    for name, content in files.items():
        path = tmp_path / f"{name}{suffix}"
        with pytest.raises(VideoError):
            read(content, path, engine)
    with socket.create_connection(listener.address.split(":")):  # who came before this one has been counted
        while not listener.came:
            time.sleep(0.01)
    assert listener.came == 1


def test_what_the_files_above_lead_to(tmp_path, listener):
    """They are real: where everything is allowed, libav goes where they say."""
    target = quadrants(tmp_path / "target.mp4", yuv("yuv420p"), H264)
    ffmpeg("-i", str(target), "-c", "copy", str(tmp_path / "target.ts"))
    files = playlists(tmp_path / "target.ts", listener.address) | {"alias": elsewhere(target.read_bytes(), target)}
    suffixes = {"hls": ".m3u8", "alias": ".mp4"}
    for name in ("hls-file", "concat-file", "concat-concat", "concat-subfile", "alias"):
        path = tmp_path / f"{name}{suffixes.get(name.split('-')[0], '.txt')}"
        path.write_bytes(files[name])
        assert followed(path) == 12, name
    for name in ("hls-http", "concat-http", "concat-tcp"):
        before = listener.came
        path = tmp_path / f"{name}{suffixes.get(name.split('-')[0], '.txt')}"
        path.write_bytes(files[name])
        assert followed(path) == 0
        assert listener.came > before, name


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


@pytest.mark.parametrize("stage", ["decode", "make_shapes"])
def test_a_folder_too_deep_for_sockets_is_named(tmp_path, stage):
    deep = tmp_path / "t" / ("d" * 100)
    deep.mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    quadrants(tmp_path / "videos" / "good.mp4", yuv("yuv420p"), [*H264, "-bf", "0"])
    prepare_listing(params(), Paths(tmp_path))
    program = (
        "from tests.pipeline.data.test_decode import params; from pipeline.data.decode import decode; import sys\n"
        "from pipeline.paths import Paths; from pathlib import Path; from pipeline.errors import writing\n"
        "from pipeline.data.shapes_files import make_shapes; from pipeline.params import ShapesParams\n"
        "shapes, paths = ShapesParams(classes=8, train=2, val=2, size=16, frames=4, fps=4), Paths(Path(sys.argv[1]))\n"
        "with writing(): "
        + {"decode": "decode(params(), paths, 1)", "make_shapes": "make_shapes(shapes, 's', 0, paths, 1)"}[stage]
    )
    env = {**os.environ, "TMPDIR": str(deep)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, capture_output=True, text=True)
    assert f"UserError: TMPDIR: {deep} is too long a path for sockets" in done.stderr

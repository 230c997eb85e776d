"""Files that would lead a decoder to other files, or over the network: none is followed."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from av.error import FFmpegError

from pipeline.data.video.errors import VideoError
from tests.pipeline.data.test_decode_hostile import read
from tests.pipeline.data.video.test_video import ENGINES
from tests.pipeline.data.video.test_video_kinds import H264, ffmpeg, quadrants, yuv


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

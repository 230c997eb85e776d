"""A video file before it is decoded: opened within limits, its frame rate and the times of its frames found.

Files are untrusted: no protocol but local files, no playlists, limits on pixels, rate and time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.container.core import Flags
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

# Demuxers of single files. Playlists (hls, dash, concat, image sequences) would open further files, and are not here.
FORMATS = "mov,mp4,m4v,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,ivf,mxf,dv"
MAX_PIXELS = 2**26  # of a frame, decoded or scaled: 8K twice
MIN_RATE, MAX_RATE = Fraction(1, 60), 1000  # frames a second; what claims less or more has broken times


class VideoError(Exception):
    """Why a file yields no frames, in words for the table of failures."""


class Unreachable(VideoError):
    """The file cannot be opened; perhaps a file system is away."""


class TooLate(VideoError):
    """The deadline is past; perhaps the machine was busy."""

    def __init__(self):
        super().__init__("took longer than decode.timeout")


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a source says it is: frames a second on average, coded pixels, seconds (None: not said), codec."""

    fps: float
    width: int
    height: int
    seconds: float | None
    codec: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's video stream.

    stream: its index in the file.
    rate: frames a second on average; ticks are counted in it.
    base: seconds of a timestamp's unit.
    packets: those that are shown, a frame each; of two frames, or of fields, exist.
    times: the timestamps of its frames in order, where every packet says one of its own; else ().
    aspect: of a pixel, width by height.
    """

    path: Path
    stream: int
    rate: Fraction
    base: Fraction
    packets: int
    times: tuple[int, ...]
    aspect: Fraction
    facts: VideoFacts


def examine(path: Path, deadline: float) -> Source:
    """Open a file and walk through its packets, decoding nothing.

    deadline: in time.monotonic()'s seconds.

    Raises VideoError, or FFmpegError where the file is no readable video.
    """
    with open_file(path, deadline) as container:
        stream = video_stream(container)
        rate, shown, times = _times(container, stream, deadline)
        context = stream.codec_context
        return Source(
            path=path,
            stream=stream.index,
            rate=rate,
            base=Fraction(stream.time_base or 0),
            packets=shown,
            times=times,
            aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1),
            facts=VideoFacts(
                fps=float(rate),
                width=context.width,
                height=context.height,
                seconds=_seconds(container, stream),
                codec=context.codec.canonical_name,
            ),
        )


def open_file(path: Path, deadline: float) -> InputContainer:
    """No option of a demuxer lets it open a second file; the list of formats keeps playlists out."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
    left = max(deadline - time.monotonic(), 0.001)
    container = av.open(f"file:{path.absolute()}", options=options, timeout=left, metadata_errors="replace")
    # PyAV asks for guesses where packets say no time; in AVI with B-frames they are wrong. The decoder's order is not.
    container.flags &= ~Flags.gen_pts.value
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures, to be decoded by one thread: the pool has as many workers as cores."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        sound = "sound alone" if container.streams.audio else "nothing that is seen"
        raise VideoError(f"no video stream: the file holds {sound}")
    stream = moving[0]
    if stream.codec_context is None:
        raise VideoError("no decoder knows its codec")
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(f"{stream.width}x{stream.height} is larger than {MAX_PIXELS} pixels")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def packets(container: InputContainer, stream: VideoStream, deadline: float) -> Iterator[Packet]:
    """Of a stream, up to the file's end, or to where it is cut off; an empty one is the last.

    Raises TooLate once `deadline`, in time.monotonic()'s seconds, is past.
    """
    coming = container.demux(stream)
    while True:
        if time.monotonic() > deadline:
            raise TooLate
        try:
            packet = next(coming)
        except ExitError:
            raise
        except (StopIteration, FFmpegError, IndexError):  # IndexError: PyAV's at an end behind streams that came late
            return
        yield packet


def _times(container: InputContainer, stream: VideoStream, deadline: float) -> tuple[Fraction, int, tuple[int, ...]]:
    """Frames a second, `Source.packets` and `Source.times`.

    The rate is what the header says where that is about right, else what the packets' times say. Headers of
    variable-rate files can be far off. The packets alone are not the better measure: some are never shown, and some
    containers round their times.
    """
    shown: list[int | None] = []
    complete = True
    for packet in packets(container, stream, deadline):
        if packet.has_sidedata("encryption_info"):
            raise VideoError("encrypted, and there is no key")
        if packet.is_discard or not packet.size:  # behind an edit list's end; the stream's
            continue
        complete = complete and packet.pts is not None
        shown.append(packet.dts if packet.pts is None else packet.pts)
    said = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    moments = sorted({moment for moment in shown if moment is not None})
    if len(moments) > 1 and stream.time_base is not None:
        measured = (len(moments) - 1) / ((moments[-1] - moments[0]) * stream.time_base)
        said = [rate for rate in said if abs(rate / measured - 1) < 0.1] or [measured]
    if not said or not MIN_RATE <= said[0] <= MAX_RATE:
        claimed = f"{float(said[0]):.3g} frames a second" if said else "it says none"
        raise VideoError(f"no believable frame rate: {claimed}")
    complete = complete and len(shown) == len(moments) and stream.time_base is not None
    return Fraction(said[0]), len(shown), tuple(moments) if complete else ()


def _seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """As the headers say; None where they do not, or say 0."""
    if stream.duration is not None and stream.duration > 0 and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None and container.duration > 0 else None

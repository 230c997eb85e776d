"""A video file before it is decoded: opened within limits, its frame rate and the times of its frames found.

Files are untrusted: no protocol but local files, no playlists, limits on pixels, rate and time.
"""

import math
import resource
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import psutil
from av.container import InputContainer
from av.container.core import Flags
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.data.video.errors import TooLate, VideoError
from pipeline.data.video.images import Images
from pipeline.data.video.packets import Packets

# Demuxers of single files. Playlists (hls, dash, concat) would open further files, and are not here.
FORMATS = "mov,mp4,m4v,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,ivf,mxf,dv"
IMAGES = "image2"  # the demuxer of numbered ones
MEMORY_BYTES = 2**31  # that examining or decoding a video may take of a process's address space
MAX_PIXELS = 2**26  # of a frame, decoded or scaled: 8K twice
MIN_RATE, MAX_RATE = Fraction(1, 60), 1000  # frames a second; what claims less or more has broken times
PAUSE_SECONDS = 2  # between two frames, if that is as much longer than usual in the file as:
PAUSE_INTERVALS = 10  # it is no part of the motion then
UNEVEN_RATIO = 1.5  # times more frames a second than on average are the motion's rate, if most follow each other so
NOTED_RATIO = 1.1  # … and so many times more are told, as then frames of the motion are left out
EXACT = 100  # the largest denominator of native frames a frame: half a percent of a rate at most
AS_LONG = Fraction(9, 10)  # of the longest stream: one of these is no shorter
BACK_SECONDS = 1  # by which times may go back: what goes back further is two recordings in one file
# Matrices of colours that swscale does not know: YCgCo, BT.2020 with constant luminance and rarer ones.
UNKNOWN_MATRICES = frozenset({8, 10, 11, 12, 13, 14, 15, 16, 17})
Transfer = Literal["PQ", "HLG"]
TRANSFERS: dict[int, Transfer] = {16: "PQ", 18: "HLG"}  # H.273's numbers


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a source is: frames a second that it is brought to, coded pixels, seconds (None: not said), codec; and what
    was done with one that is not plain, in words."""

    fps: float
    width: int
    height: int
    seconds: float | None
    codec: str
    notes: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's video stream.

    stream: its index in the file.
    rate: frames a second; ticks are counted in it.
    base: seconds of a timestamp's unit.
    packets: those that are shown, a frame each, and those that would be where it stands still; of two frames exist.
    times: the timestamps of its frames in order, where every packet says one of its own; else ().
    last, end: the timestamp of the last frame, and the tick at which it is over, as its packet says, but shown once
        at least; None where packets do not all say a time of their own.
    counted: whether too few packets say a time to tell the frames' own, which are taken to follow each other evenly.
    pauses: in order, the first timestamp behind each, and by how many units it comes too late for all of them.
    aspect: of a pixel, width by height.
    images: that it is made of, where it is a folder.
    transfer: of a high dynamic range; else None.
    odd_matrix: whether swscale knows no matrix of its colours' name, so that they are taken as unnamed ones.
    """

    path: Path
    stream: int
    rate: Fraction
    base: Fraction
    packets: int
    times: tuple[int, ...]
    last: int | None
    end: int
    counted: bool
    pauses: tuple[tuple[int, int], ...]
    aspect: Fraction
    images: Images | None
    transfer: Transfer | None
    odd_matrix: bool
    facts: VideoFacts

    def without_pauses(self, stamp: int) -> int:
        """A timestamp as if there had been no pauses before it."""
        before = bisect_right(self.pauses, (stamp, math.inf))
        return stamp - self.pauses[before - 1][1] if before else stamp

    def tick(self, units: int) -> int:
        """The tick of a time after the first frame's."""
        return _nearest(units * self.base * self.rate)

    def step(self, frame_step: int | None, fps: float | None) -> Fraction:
        """Ticks from one wanted frame to the next: `frame_step`, or what makes `fps` frames a second.

        That is a ratio of small numbers, so that a rate which is written a little differently drops no frame.
        """
        if frame_step is not None:
            return Fraction(frame_step)
        assert fps is not None
        step = self.rate / Fraction(fps)
        return step.limit_denominator(EXACT) if step >= 1 else 1 / (1 / step).limit_denominator(EXACT)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Leave this process MEMORY_BYTES more of address space: a few bytes of a header may ask for all that there is."""
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@bounded_memory()
def examine(path: Path, deadline: float, image_rate: float | None = None) -> Source:
    """Open a file and walk through its packets, decoding nothing.

    deadline: in time.monotonic()'s seconds. image_rate: frames a second of a folder of images.

    Raises VideoError, or FFmpegError where the file is no readable video.
    """
    images = None if image_rate is None or not path.is_dir() else Images.of(path, image_rate)
    with open_file(path, deadline, images) as container:
        streams = _moving(container)
        by_stream = {stream.index: Packets(container.format.name) for stream in streams}
        for packet in packets(container, streams, deadline):
            by_stream[packet.stream.index].add(packet)
        longest = max(_length(stream, by_stream[stream.index]) for stream in streams)
        chosen = max(streams, key=lambda stream: _rank(stream, by_stream[stream.index], longest))
        stream, coded = video_stream(container, chosen.index), by_stream[chosen.index]
        if coded.encrypted:
            raise VideoError("encrypted, and there is no key")
        rate, pauses, uneven = _rate(stream, coded)
        context, base, moments = stream.codec_context, Fraction(stream.time_base or 0), coded.moments or [0]
        length = moments[-1] - moments[0] - (pauses[-1][1] if pauses else 0)
        known = coded.complete and stream.time_base is not None
        transfer, odd_matrix = TRANSFERS.get(context.color_trc), context.colorspace in UNKNOWN_MATRICES
        notes = (
            (len(streams) > 1, f"video stream {streams.index(chosen) + 1} of {len(streams)}"),
            (pauses, f"pauses cut out: {len(pauses)}, {float(pauses[-1][1] * base) if pauses else 0:.1f} s"),
            (coded.few, "times of few frames, taken as even"),
            (uneven, f"uneven, brought to {float(rate):.3g} frames a second"),
            (transfer, f"{transfer} brought to standard dynamic range"),
            (odd_matrix, f"colour matrix {context.colorspace} taken as an unnamed one"),
        )
        return Source(
            path=path,
            stream=stream.index,
            rate=rate,
            base=base,
            packets=len(coded) if coded.few else max(len(coded), round(length * base * rate) + 1),
            times=tuple(moments) if known else (),
            last=moments[-1] if known else None,
            end=max(_nearest(length * base * rate) + 1, _nearest((length + coded.last[1]) * base * rate)),
            counted=coded.few,
            pauses=pauses,
            aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1),
            images=images,
            transfer=transfer,
            odd_matrix=odd_matrix,
            facts=VideoFacts(
                fps=float(rate),
                width=context.width,
                height=context.height,
                seconds=float(len(coded) / rate) if coded.few else _seconds(container, stream),
                codec=context.codec.canonical_name,
                notes="; ".join(note for holds, note in notes if holds),
            ),
        )


def open_file(path: Path, deadline: float, images: Images | None = None) -> InputContainer:
    """No option of a demuxer lets it open a second file but the images of a folder; the list of formats keeps
    playlists out."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
    left, url, kind = max(deadline - time.monotonic(), 0.001), f"file:{path.absolute()}", None
    if images is not None:
        url, kind = f"file:{images.pattern}", IMAGES
        options |= {"format_whitelist": kind, "pattern_type": "sequence"}
        options |= {"start_number": str(images.first), "start_number_range": "1", "framerate": str(images.rate)}
    container = av.open(url, format=kind, options=options, timeout=left, metadata_errors="replace")
    # PyAV asks for guesses where packets say no time; in AVI with B-frames they are wrong. The decoder's order is not.
    container.flags &= ~Flags.gen_pts.value
    return container


def _nearest(ticks: Fraction) -> int:
    """Halves up. Timestamps in whole milliseconds lie on both sides of their tick."""
    return math.floor(ticks + Fraction(1, 2))


def _moving(container: InputContainer) -> list[VideoStream]:
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        sound = "sound alone" if container.streams.audio else "nothing that is seen"
        raise VideoError(f"no video stream: the file holds {sound}")
    return moving


def video_stream(container: InputContainer, index: int) -> VideoStream:
    """A stream of moving pictures, to be decoded by one thread: the pool has as many workers as cores."""
    stream = next(s for s in container.streams.video if s.index == index)
    if stream.codec_context is None:
        raise VideoError("no decoder knows its codec")
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(f"{stream.width}x{stream.height} is larger than {MAX_PIXELS} pixels")
    options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.options = options | ({"err_detect": "explode"} if container.format.name == IMAGES else {})
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def packets(container: InputContainer, streams: Sequence[VideoStream], deadline: float) -> Iterator[Packet]:
    """Of some streams, up to the file's end, or to where it is cut off; an empty one is the last of each.

    Raises TooLate once `deadline`, in time.monotonic()'s seconds, is past.
    """
    coming = container.demux(*streams)
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


def _length(stream: VideoStream, coded: Packets) -> Fraction:
    """Seconds from a stream's first frame to its last."""
    moments = coded.moments or [0]
    return (moments[-1] - moments[0]) * Fraction(stream.time_base or 0)


def _rank(stream: VideoStream, coded: Packets, longest: Fraction) -> tuple[bool, bool, bool, int]:
    """By which the film is found among several: what moves, what players show, the longest, of these the largest."""
    shown, as_long = bool(stream.disposition & Disposition.default), _length(stream, coded) >= AS_LONG * longest
    pixels = 0 if stream.codec_context is None else stream.width * stream.height  # no decoder knows its codec
    return len(coded) > 1, shown, as_long, pixels


def _rate(stream: VideoStream, coded: Packets) -> tuple[Fraction, tuple[tuple[int, int], ...], bool]:
    """Frames a second, `Source.pauses`, and whether frames follow each other unevenly.

    The rate is what the header says where that is about right, else what the packets' times say. Headers of
    variable-rate files can be far off. The packets alone are not the better measure: some are never shown, and some
    containers round their times. Where few packets say a time, they are counted between those that do.
    """
    said = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    moments, base, gif = coded.moments, stream.time_base, stream.codec_context.name == "gif"
    if gif and len(moments) < 2:
        raise VideoError("a GIF of a single picture")
    pauses: list[tuple[int, int]] = []
    noted, late, joined = False, 0, 0
    if base is not None and coded.back * base > BACK_SECONDS:
        raise VideoError(f"its times go back by {float(coded.back * base):.1f} s: recordings joined into one file")
    if coded.few and base is not None and coded.step:
        measured = 1 / (coded.step * base)
        said = [rate for rate in said if abs(rate / measured - 1) < 0.1] or [measured]
    elif not coded.few and len(moments) > 1 and base is not None:
        usual = statistics.median_low([later - earlier for earlier, later in pairwise(moments)])
        for earlier, later in pairwise(moments):
            if (later - earlier) * base > PAUSE_SECONDS and later - earlier > PAUSE_INTERVALS * usual:
                late += later - earlier - usual
                pauses.append((later, late))
            elif gif:  # whose writers make one of frames that are alike
                joined += max(round((later - earlier) / usual), 1) - 1
        measured = (len(moments) - 1 + joined) / ((moments[-1] - moments[0] - late) * base)
        moving = 1 / (usual * base)
        uneven = UNEVEN_RATIO * measured < moving <= PAUSE_INTERVALS * measured  # above it is jitter, no motion
        noted = joined > 0 or NOTED_RATIO * measured < moving <= PAUSE_INTERVALS * measured
        measured = moving if uneven else measured
        near = 0 if gif else 0.1  # a GIF's header says no rate: it is a guess
        said = [rate for rate in said if abs(rate / measured - 1) < near] or [measured]
    if not said or not MIN_RATE <= said[0] <= MAX_RATE:
        claimed = f"{float(said[0]):.3g} frames a second" if said else "it says none"
        raise VideoError(f"no believable frame rate: {claimed}")
    return Fraction(said[0]), tuple(pauses), noted


def _seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """As the headers say; None where they do not, or say 0."""
    if stream.duration is not None and stream.duration > 0 and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None and container.duration > 0 else None

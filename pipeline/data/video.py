"""One video file to frames: chosen by timestamps, upright, with square pixels, scaled and cropped.

Two engines behind `decode_video`: PyAV in this process (the default), and the ffmpeg binary (`video_ffmpeg`), the
witness that the tests hold the first against. Files are untrusted: no protocol but local files, no playlists, limits
on pixels, frames and time.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from pipeline.data.video_ffmpeg import FORMATS, FfmpegFailure, read_frames

Engine = Literal["pyav", "ffmpeg"]
Crop = Literal["center", "none"]

MAX_PIXELS = 2**26  # of a frame, decoded or scaled: 8K twice
MAX_BYTES = 2**32  # of one video's top view, which is held in memory
MAX_RATE = 1000  # frames a second; what claims more is a broken header
LATE = "took longer than decode.timeout"
SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoError(Exception):
    """Why a file yields no frames, in words for the table of failures."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a source says it is: frames a second on average, coded pixels, seconds, codec."""

    fps: float
    width: int
    height: int
    seconds: float
    codec: str


def decode_video(
    path: Path,
    *,
    frame_step: int,
    size: int,
    crop: Crop,
    max_frames: int | None,
    engine: Engine,
    timeout: float,
) -> tuple[UInt8[np.ndarray, "T {size} {size} 3"], VideoFacts]:
    """Decode a video's top view: uint8 RGB, T >= 1 frames.

    A source is first brought to its own average constant rate: at tick k, k / rate seconds after its first frame, it
    shows the last of its frames whose time rounds to k or less. Ticks 0, frame_step, 2 frame_step, … are kept, at
    most max_frames of them. The short side is scaled to `size` (swscale's bilinear, whose filter widens when it
    shrinks) and the square in the middle is cut out; crop "none" squeezes the whole frame instead.

    timeout: seconds.

    Damaged frames are left out and the rest is kept, as ffmpeg does. Raises VideoError with the reason where no frame
    is left.
    """
    if not path.is_file():
        raise VideoError("no such file")
    if path.stat().st_size == 0:
        raise VideoError("0 bytes")
    deadline = time.monotonic() + timeout
    limit = frame_limit(size)
    wanted = min(max_frames or limit + 1, limit + 1)
    try:
        with _open(path, timeout) as container:
            rate = _average_rate(container, _video_stream(container), deadline)
        with _open(path, timeout) as container:
            stream = _video_stream(container)
            if engine == "pyav":
                frames = _frames_at_ticks(container, stream, rate, frame_step, size, crop, deadline)
            else:
                frames = read_frames(path, stream.index, rate, frame_step, size, crop, wanted, timeout)
            chosen = list(islice(frames, wanted))
            seconds = _seconds(container, stream)
            if not chosen:
                says = "" if seconds is None else f"the header says {seconds:.1f} s, "
                raise VideoError(f"truncated or damaged: {says}no frame decodes")
            if len(chosen) > limit:
                raise VideoError(f"more than {limit} frames; decode.max_frames shortens it")
            facts = VideoFacts(
                fps=float(rate),
                width=stream.codec_context.width,
                height=stream.codec_context.height,
                seconds=float(len(chosen) * frame_step / rate) if seconds is None else seconds,
                codec=stream.codec_context.name,
            )
    except ExitError as error:  # PyAV's word for a file system that does not answer
        raise VideoError(LATE) from error
    except FFmpegError as error:
        raise VideoError(f"not a readable video: {error.strerror}") from error
    except FfmpegFailure as error:
        raise VideoError(str(error)) from error
    return np.stack(chosen), facts


def _open(path: Path, timeout: float) -> InputContainer:
    """No option of a demuxer lets it open a second file; the list of formats keeps playlists out."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    return av.open(f"file:{path.absolute()}", options=options, timeout=timeout, metadata_errors="replace")


def frame_limit(size: int) -> int:
    """How many frames of `size` pixels a video's top view may have."""
    return MAX_BYTES // (size * size * 3)


def _video_stream(container: InputContainer) -> VideoStream:
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoError("no video stream")
    stream = moving[0]
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(f"{stream.width}x{stream.height} is larger than {MAX_PIXELS} pixels")
    stream.thread_type = "NONE"  # one thread a worker: the pool has as many workers as cores
    stream.codec_context.thread_count = 1
    return stream


def _average_rate(container: InputContainer, stream: VideoStream, deadline: float) -> Fraction:
    """Frames a second: what the header says where that is about right, else what the packets' times say.

    Headers of variable-rate files can be far off. The packets alone are not the better measure: some are never shown,
    and some containers round their times.
    """
    times: set[int] = set()
    with suppress(FFmpegError):  # where the file is cut off
        for packet in container.demux(stream):
            moment = packet.dts if packet.pts is None else packet.pts
            if moment is not None and not packet.is_discard:
                times.add(moment)
            if time.monotonic() > deadline:
                raise VideoError(LATE)
    said = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    if len(times) > 2 and stream.time_base is not None:
        measured = (len(times) - 1) / ((max(times) - min(times)) * stream.time_base)
        said = [rate for rate in said if abs(rate / measured - 1) < 0.1] or [measured]
    if not said or said[0] > MAX_RATE:
        raise VideoError(f"no believable frame rate: {float(said[0]) if said else 'none'}")
    return Fraction(said[0])


def _seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _frames_at_ticks(
    container: InputContainer,
    stream: VideoStream,
    rate: Fraction,
    frame_step: int,
    size: int,
    crop: Crop,
    deadline: float,
) -> Iterator[np.ndarray]:
    """The frames shown at ticks 0, frame_step, …; only those are scaled, and one decoded frame is held at a time."""
    scaler = VideoReformatter()
    wanted, shown, shown_tick, end = 0, None, 0, 0  # the next tick to yield; the newest frame, its first tick, its end
    first: Fraction | None = None
    for frame in _decoded(container, stream):
        if time.monotonic() > deadline:
            raise VideoError(LATE)
        base = frame.time_base or stream.time_base
        if frame.pts is None or base is None:
            tick, length = shown_tick + (shown is not None), 0
        else:
            moment = frame.pts * base
            first = moment if first is None else first
            tick, length = _tick((moment - first) * rate), frame.duration * base
        if shown is not None and wanted < tick:
            image = _image(scaler, shown, stream, size, crop)
            while wanted < tick:
                yield image
                wanted += frame_step
        if shown is None or tick >= shown_tick:  # a time that goes backwards is a damaged one
            shown, shown_tick = frame, max(tick, 0)
            end = max(shown_tick + 1, shown_tick + _tick(length * rate))
    if shown is not None and wanted < end:
        image = _image(scaler, shown, stream, size, crop)
        while wanted < end:
            yield image
            wanted += frame_step


def _tick(x: Fraction) -> int:
    """To the nearest, halves up: timestamps in whole milliseconds lie on both sides of their tick."""
    return int((x + Fraction(1, 2)) // 1)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that decodes, in the order of their times. A damaged packet costs its own frame alone."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except ExitError:
            raise
        except (StopIteration, FFmpegError):
            return  # the file's end, or where it is cut off
        try:
            yield from stream.decode(packet)
        except FFmpegError:
            continue


def scaled_size(width: int, height: int, aspect: Fraction, size: int, crop: Crop) -> tuple[int, int]:
    """To which width and height a frame is scaled, of pixels `aspect` times as wide as high: short side to `size`."""
    if crop == "none":
        return size, size
    shown = width * aspect
    short = min(shown, height)
    return max(size, round(shown * size / short)), max(size, round(height * size / short))


def _image(scaler: VideoReformatter, frame: VideoFrame, stream: VideoStream, size: int, crop: Crop) -> np.ndarray:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    width, height = scaled_size(frame.width, frame.height, aspect, size, crop)
    if max(width * height, frame.width * frame.height) > MAX_PIXELS:
        raise VideoError(f"{frame.width}x{frame.height}, pixels {aspect}, is too large or too long for a square")
    scaled = scaler.reformat(frame, width, height, "rgb24", interpolation=SCALER, threads=1)
    image = scaled.to_ndarray()
    if frame.rotation % 90 == 0:  # what else a display matrix holds is damage
        image = np.rot90(image, frame.rotation // 90)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])

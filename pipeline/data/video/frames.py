"""One video file to frames: chosen by timestamps, upright, with square pixels, scaled and cropped.

Two engines behind `decode_video`: PyAV in this process (`pyav`, the default), and the ffmpeg binary
(`ffmpeg`), the witness that the tests hold the first against.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from av.error import ExitError, FFmpegError
from jaxtyping import UInt8

from pipeline.data.video import ffmpeg, pyav
from pipeline.data.video.errors import TooLate, Unreachable, VideoError
from pipeline.data.video.hdr import tone_mapped
from pipeline.data.video.source import Source, VideoFacts, examine

Engine = Literal["pyav", "ffmpeg"]
Crop = Literal["center", "none"]
Hdr = Literal["tone-map", "leave-out"]

MAX_FRAMES = 2**20  # of a video's top view: nine hours at 30 a second
STILL = 1000  # ticks for which a video may stand still beyond what its packets account for
HEAD = 256  # bytes that tell what a file is that is no video


class Sink(Protocol):
    """Where frames go."""

    def put(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Take the next frame, which is valid during this call."""

    def clear(self) -> None:
        """Forget every frame so far: they come once more."""


def decode_video(
    path: Path,
    sink: Sink,
    *,
    frame_step: int | None,
    fps: float | None = None,
    size: int,
    crop: Crop,
    hdr: Hdr,
    max_frames: int | None,
    engine: Engine,
    timeout: float,
    image_rate: float | None = None,
) -> VideoFacts:
    """Decode a video's top view: uint8 RGB frames [size, size, 3], at least one, one after another into `sink`.

    A source is first brought to its own constant rate, on average or, where it is uneven, of its motion, and pauses are
    cut out: at tick k, k / rate seconds after its first frame, it shows the last of its frames whose time rounds to k
    or less. Ticks 0, frame_step, 2 frame_step, … are kept, at most max_frames of them, or those that make `fps` frames
    a second (`Source.step`), with frames repeated where the source is slower. The short side is scaled to `size`
    (swscale's bilinear, whose filter widens when it shrinks) and the square in the middle is cut out; crop "none"
    squeezes the whole frame instead. A high dynamic range is brought to that of other videos, or the video is
    left out, as `hdr` says.

    timeout: seconds. image_rate: frames a second of a folder of images, which any engine decodes by PyAV.

    Damaged frames are left out and the rest is kept, as ffmpeg does. Raises VideoError with the reason where no frame
    is left, and TooLate; what the sink holds then is of no use.
    """
    head = b"" if image_rate is not None and path.is_dir() else _head(path)
    deadline = time.monotonic() + timeout
    try:
        source = _examine(path, head, deadline, image_rate)
        if source.transfer and hdr == "leave-out":
            raise VideoError(f"high dynamic range ({source.transfer}); decode.hdr: tone-map keeps it")
        step = source.step(frame_step, fps)
        most = min(MAX_FRAMES, -(-(2 * source.packets + STILL) // step))  # what goes on longer has broken times
        frames = most + 1 if max_frames is None else min(max_frames, most + 1)
        if source.pauses:  # the last frame's length may be one of them
            frames = min(frames, -(-source.packets // step))
        wanted = {"step": step, "size": size, "crop": crop, "frames": frames, "deadline": deadline}
        if engine == "ffmpeg" and source.images is None:  # it would pass over damaged images and other sizes
            count = _pour(ffmpeg.frames_at_ticks(source, **wanted), sink, source)
        else:
            try:
                count = _pour(pyav.frames_at_ticks(source, **wanted, skip=True), sink, source)
            except pyav.NotAsSaid:
                sink.clear()
                count = _pour(pyav.frames_at_ticks(source, **wanted, skip=False), sink, source)
    except ExitError as error:  # PyAV's word for a file system that does not answer
        raise TooLate from error
    except FFmpegError as error:
        raise VideoError(f"damaged: {error.strerror}") from error
    facts = source.facts
    if step < 1:
        slow = f"{facts.fps:.3g} frames a second, repeated for decode.fps"
        facts = replace(facts, notes="; ".join(filter(None, (facts.notes, slow))))
    if not count:
        says = "" if facts.seconds is None else f"the header says {facts.seconds:.1f} s, "
        raise VideoError(f"truncated or damaged: {says}no frame decodes")
    if count > MAX_FRAMES:
        raise VideoError(f"more than {MAX_FRAMES} frames; decode.max_frames shortens it")
    if count > most:
        raise VideoError(f"damaged times: they would make more than {most} frames of the few that it has")
    return facts if facts.seconds is not None else replace(facts, seconds=float(count * step / source.rate))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise Unreachable(f"cannot be opened: {str(error.strerror).lower()}") from error
    if not head:
        raise VideoError("0 bytes")
    return head


def _examine(path: Path, head: bytes, deadline: float, image_rate: float | None) -> Source:
    try:
        return examine(path, deadline, image_rate)
    except ExitError:
        raise
    except FFmpegError as error:
        # libav's words for what it does not know ("Invalid argument") tell people nothing.
        said = "" if isinstance(error, (ValueError, EOFError)) else f" ({error.strerror})"
        raise VideoError(f"not a readable video: {_kind(head)}{said}") from error


def _kind(head: bytes) -> str:
    """What a file seems to be that does not open, by its first bytes."""
    text = " ".join(head.decode(errors="ignore").split())
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer in its place; `git lfs pull` fetches it"
    if text and text.isprintable():
        return f"text that begins {text[:40]!r}"
    if len(head) < 64:
        return f"it ends behind byte {len(head)}"
    if head[4:8] == b"ftyp":
        return "an MP4 file whose index (moov) is missing or damaged, perhaps cut off"
    return "of no known format, or damaged at its beginning"


def _pour(frames: Iterator[np.ndarray], sink: Sink, source: Source) -> int:
    count = 0
    for frame in frames:
        sink.put(tone_mapped(frame, source.transfer) if source.transfer else frame)
        count += 1
    return count

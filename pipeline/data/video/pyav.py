"""The default engine: frames by PyAV in this process, those at the wanted ticks alone scaled, the others not even
decoded where nothing refers to them."""

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import floor

import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from pipeline.data.video.errors import VideoError
from pipeline.data.video.images import Images
from pipeline.data.video.source import MAX_PIXELS, Source, open_file, packets, video_stream

SCALER = "bilinear+accurate_rnd+full_chroma_int"
# Codecs whose decoders, told to, leave out frames that no other refers to, and stay exact in all others. Not mpeg4: AVI
# files of it pack two frames into a packet.
SKIPPING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})


UNSPECIFIED = 2  # matrix of colours (H.273)


class NotAsSaid(Exception):
    """The frames are not those that the packets announced: what was yielded may differ from a whole decoding's."""


def frames_at_ticks(
    source: Source, *, step: Fraction, size: int, crop: str, frames: int, deadline: float, skip: bool
) -> Iterator[UInt8[np.ndarray, "{size} {size} 3"]]:
    """The frames shown at ticks 0, step, 2 step, … (rounded down), at most `frames` of them; see `video.decode_video`.

    One decoded frame is held at a time. A yielded image is valid until the next.

    skip: leave undecoded what no wanted frame needs, where the codec can and the packets say enough. Raises NotAsSaid
        once the file turns out to be other than its packets said; without `skip` it never does.
    """
    keep = _wanted_times(source, step, frames) if skip and source.facts.codec in SKIPPING else None
    with open_file(source.path, deadline, source.images) as container:
        stream = video_stream(container, source.stream)
        coded = packets(container, [stream], deadline)
        decoded = _decoded(coded, stream, keep) if source.images is None else _alike(coded, stream, source.images)
        if keep is not None:
            decoded = _checked(decoded, source, keep)
        image = _Image(source, size, crop)
        for frame, count in _shown(decoded, source, step, frames, stream.start_time or 0):
            array = image.of(frame)
            for _ in range(count):
                yield array


def _shown(
    decoded: Iterator[VideoFrame], source: Source, step: Fraction, frames: int, start: int
) -> Iterator[tuple[VideoFrame, int]]:
    """(frame, at how many of the wanted ticks it is shown), at `frames` ticks in all."""
    shown: VideoFrame | None = None
    first, tick, end, yielded = 0, 0, 0, 0
    clock = _Clock(start)
    for frame in decoded:
        stamp = None if source.counted else clock.time(frame)
        if stamp is None:
            moment, over = tick + (shown is not None), 0
        else:
            time = source.without_pauses(stamp)
            if shown is None:
                first = time
            moment = source.tick(time - first)
            over = source.end if stamp == source.last else source.tick(time - first + frame.duration)
        if shown is not None and yielded * step < moment:
            count = min(-(-moment // step), frames) - yielded
            yield shown, count
            yielded += count
            if yielded == frames:
                return
        if shown is None or moment >= tick:  # a time that goes backwards is a damaged one
            shown, tick = frame, max(moment, 0)
            end = max(tick + 1, over)
    if shown is not None and yielded * step < end:
        yield shown, min(-(-end // step), frames) - yielded


def _wanted_times(source: Source, step: Fraction, frames: int) -> frozenset[int] | None:
    """Timestamps of the frames that `_shown` needs to see to yield what it would from all; None: not to be known."""
    if not source.times:
        return None
    first, last = source.times[0], source.times[-1]
    ticks = [source.tick(source.without_pauses(time) - first) for time in source.times]
    wanted = [int(number * step) for number in range(min(frames, -(-(ticks[-1] + 1) // step)))]
    # The last says how long it is shown, and one behind the last wanted tick that this is over.
    times = {first, last, *(source.times[bisect_right(ticks, tick) - 1] for tick in wanted)}
    if len(wanted) == frames:
        times.add(source.times[min(bisect_right(ticks, wanted[-1]), len(ticks) - 1)])
    return frozenset(times)


def _checked(decoded: Iterator[VideoFrame], source: Source, keep: frozenset[int]) -> Iterator[VideoFrame]:
    """`_decoded` with frames left out. Raises NotAsSaid where a kept one does not come, or not in its order."""
    known = frozenset(source.times)
    missing, newest = set(keep), None
    for frame in decoded:
        moment = frame.pts
        if moment not in known or (newest is None and moment != source.times[0]):
            raise NotAsSaid
        if (newest is not None and moment <= newest) or frame.is_corrupt:
            raise NotAsSaid
        newest = moment
        missing.discard(moment)
        yield frame
    if missing:
        raise NotAsSaid


def _decoded(coded: Iterator[Packet], stream: VideoStream, keep: frozenset[int] | None) -> Iterator[VideoFrame]:
    """Every frame that decodes (and is kept, or others refer to), in the order of their times.

    A damaged packet costs its own frame alone; where frames are left out, it raises NotAsSaid.
    """
    context = stream.codec_context
    for packet in coded:
        if keep is not None:
            context.skip_frame = "DEFAULT" if packet.pts in keep else "NONREF"
        try:
            yield from stream.decode(packet)
        except FFmpegError as error:
            if keep is not None:
                raise NotAsSaid from error


def _alike(coded: Iterator[Packet], stream: VideoStream, images: Images) -> Iterator[VideoFrame]:
    """Every image. Raises VideoError with the name of one that is damaged, or of another size than the first."""
    size = None
    for packet, name in zip(coded, images.names, strict=False):
        try:
            frames = stream.decode(packet)
        except FFmpegError as error:
            raise VideoError(f"{name}: damaged: {error.strerror}") from error
        if len(frames) != 1:
            raise VideoError(f"{name}: {len(frames)} images in one file")
        (frame,) = frames
        now = f"{frame.width}x{frame.height}"
        size = size or now
        if now != size:
            raise VideoError(f"{name}: {now}, but the images before it have {size}")
        yield frame


class _Clock:
    """A frame's time: its own; its packet's place in decoding order where the frames' own times went back more often
    (libavcodec's best effort, which PyAV leaves out); else the end of the frame before."""

    def __init__(self, start: int):
        self._pts = self._dts = -(2**63)  # the newest
        self._bad_pts = self._bad_dts = 0  # how often they did not go forward
        self._next: int | None = start

    def time(self, frame: VideoFrame) -> int | None:
        """In the stream's unit. None: not to be known."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._bad_dts += dts <= self._dts
            self._dts = dts
        elif pts is not None:
            self._dts = pts
        if pts is not None:
            self._bad_pts += pts <= self._pts
            self._pts = pts
        elif dts is not None:
            self._pts = dts
        time = dts if pts is None or (self._bad_pts > self._bad_dts and dts is not None) else pts
        time = self._next if time is None else time
        self._next = time + frame.duration if time is not None and frame.duration else None
        return time


@lru_cache(maxsize=16)
def scaled_size(width: int, height: int, aspect: Fraction, size: int, crop: str) -> tuple[int, int]:
    """To which width and height a frame is scaled, of pixels `aspect` times as wide as high: short side to `size`."""
    if crop == "none":
        return size, size
    shown = width * aspect
    short = min(shown, height)
    half = Fraction(1, 2)  # rounded up, as ffmpeg's expressions do
    return max(size, floor(shown * size / short + half)), max(size, floor(height * size / short + half))


class _Image:
    """From decoded frames to squares, upright as the first frame says: later ones need not repeat it."""

    def __init__(self, source: Source, size: int, crop: str):
        self._source, self._size, self._crop = source, size, crop
        self._scaler = _Scaler()
        self._matrix: bytes | None = None
        self._image = np.empty((size, size, 3), np.uint8)

    def of(self, frame: VideoFrame) -> np.ndarray:
        """The frame as uint8 RGB, in an array that the next one takes over."""
        size = self._size
        if self._matrix is None:
            side = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = b"" if side is None else bytes(side)
        if self._source.odd_matrix:
            frame.colorspace = UNSPECIFIED
        width, height = scaled_size(frame.width, frame.height, self._source.aspect, size, self._crop)
        if max(width * height, frame.width * frame.height) > MAX_PIXELS:
            raise VideoError(
                f"{frame.width}x{frame.height}, pixels {self._source.aspect}, is too large or too long for a square"
            )
        for channel, plane in zip((1, 2, 0), self._scaler.scale(frame, width, height).planes, strict=True):
            image = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
            image = _upright(image, self._matrix)
            top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
            self._image[..., channel] = image[top : top + size, left : left + size]
        return self._image


class _Scaler:
    """ffmpeg's scale filter, built anew where the frames change: what `video.ffmpeg` scales with.

    swscale by itself would take the two fields of interlaced frames apart, and place chroma elsewhere. To planes: it
    takes twice as long to write packed RGB.
    """

    def __init__(self):
        self._key: tuple | None = None

    def scale(self, frame: VideoFrame, width: int, height: int) -> VideoFrame:
        """The frame in planes G, B, R of uint8."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, width, height)
        if key != self._key:
            self._key, self._graph = key, Graph()
            self._graph.threads = 1
            nodes = (
                self._graph.add(
                    "buffer",
                    video_size=f"{frame.width}x{frame.height}",
                    pix_fmt=frame.format.name,
                    time_base="1/1",
                    colorspace=str(int(frame.colorspace)),
                    range=str(int(frame.color_range)),
                ),
                self._graph.add("scale", f"{width}:{height}:flags={SCALER}"),
                self._graph.add("format", "gbrp"),
                self._graph.add("buffersink"),
            )
            self._graph.link_nodes(*nodes).configure()
        self._graph.vpush(frame)
        return self._graph.vpull()


def _upright(plane: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turned and mirrored as a display matrix says: what is at (x, y) is shown at (a x + c y, b x + d y)."""
    if not matrix:
        return plane
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if 100 * max(abs(b), abs(c)) < min(abs(a), abs(d)):
        right, down = a, d
    elif 100 * max(abs(a), abs(d)) < min(abs(b), abs(c)):
        plane, right, down = plane.swapaxes(0, 1), c, b
    else:  # no quarter turn: damage
        return plane
    return plane[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]

"""One side of a comparison: a set of videos, and the clips that it gives."""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from av.error import FFmpegError
from jaxtyping import UInt8

from models.hierarchy import f_s
from pipeline.data.sampling import generator
from pipeline.data.video.errors import VideoError
from pipeline.data.video.frames import decode_video
from pipeline.data.video.source import VideoFacts, examine
from pipeline.errors import UserError

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 600  # that a video may take
MAX_CLIP_BYTES = 2**30  # of a clip, where nobody said how long and large clips are
IMAGE_FPS = 24.0  # of folders of images where any will do, as each image is taken

Clip = UInt8[np.ndarray, "T S S 3"]
Rate = float | tuple[float, float]  # frames a second, or the fewest and the most
Start = Callable[[int], int | None]  # the frame that a clip begins at, of so many; None: at none of them


@dataclass(frozen=True)
class Draw:
    """Random windows of the videos of a side; the other, of another name, gets others."""

    seed: int
    side: str

    def order(self, videos: int) -> list[int]:
        """In which the videos give one after the other."""
        return self._generator("videos", 0).permutation(videos).tolist()

    def start(self, video: int, earlier: int, starts: int) -> int | None:
        """Of a video that gave so many windows earlier: none comes twice."""
        return int(self._generator("starts", video).permutation(starts)[earlier]) if earlier < starts else None

    def _generator(self, what: str, video: int) -> np.random.Generator:
        return generator(self.seed, 0, f"hvg metrics {self.side} {what}", 0, video)


@dataclass(kw_only=True)
class ClipSet(ABC):
    """A set of videos, and what shows while clips are taken of it."""

    path: Path
    what: str  # in words, for the protocol
    digest: str
    sigma: float | None = None  # of the noise that it comes from, where it is known
    frame_step: int | None = None  # native frames from one to the next, where it is known
    fps: float | None = None  # frames a second that all its videos are brought to, or taken to have
    rates: set[float] = field(default_factory=set)  # else their own, of those that say one
    clips_per_video: int = 1  # at most

    @property
    def rate(self) -> Rate | None:
        """Of all its videos, where they say one."""
        known = {round(rate, 2) for rate in self.rates} if self.fps is None else {self.fps}
        return (min(known), max(known)) if len(known) > 1 else next(iter(known), None)

    def clips(self, frames: int, size: int, draw: Draw | None = None) -> Iterator[Clip]:
        """Clips of `frames` frames, `size` pixels wide and high; what is shorter or cannot be decoded is left out.

        They are the first frames of every video, or windows that `draw` chooses: one of each video, in random order,
        then another of each, until no video has one more.
        """
        videos, earlier = list(range(len(self))) if draw is None else draw.order(len(self)), 0
        while videos:
            more = []
            for video in videos:
                start = _first if draw is None else partial(draw.start, video, earlier)
                if (clip := self._clip(video, frames, size, start)) is not None:
                    self.clips_per_video = earlier + 1
                    more.append(video)
                    yield clip
            videos, earlier = [] if draw is None else more, earlier + 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        """(frames, pixels) of a clip: what is given, and for the rest those of the set's first video."""

    @abstractmethod
    def scaling(self, size: int) -> str:
        """How frames become `size` pixels wide and high, in words."""

    @abstractmethod
    def _clip(self, video: int, frames: int, size: int, start: Start) -> Clip | None: ...


def _first(starts: int) -> int | None:
    return 0 if starts > 0 else None


@dataclass(kw_only=True)
class FrameSet(ClipSet):
    """Videos that lie as frames in an array or a store.

    lengths: of the videos. steps: from one frame of a clip to the next; below 1 some frames come twice.
    """

    lengths: Sequence[int]
    steps: Sequence[Fraction]
    width: int
    height: int
    read: Callable[[int, int, int], UInt8[np.ndarray, "T H W 3"]]  # a video, its first frame, how many

    @property
    def size(self) -> int:
        """Of the square in the middle of a frame."""
        return min(self.width, self.height)

    def __len__(self) -> int:
        return len(self.lengths)

    def frames(self, video: int) -> int:
        """That a clip can have at most."""
        return -(-int(self.lengths[video]) // self.steps[video])

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        return frames or self.frames(0), size or self.size

    def scaling(self, size: int) -> str:
        cut = "" if self.width == self.height else ", the square in the middle"
        return f"{self.width}x{self.height}{cut}" + (
            f", scaled to {size} (PIL's bilinear)" if size != self.size else ""
        )

    def _clip(self, video: int, frames: int, size: int, start: Start) -> Clip | None:
        begin = start(self.frames(video) - frames + 1)
        if begin is None:
            return None
        wanted = [int(frame * self.steps[video]) for frame in range(begin, begin + frames)]
        taken = self.read(video, wanted[0], wanted[-1] - wanted[0] + 1)[np.array(wanted) - wanted[0]]
        top, left = (self.height - self.size) // 2, (self.width - self.size) // 2
        square = np.ascontiguousarray(taken[:, top : top + self.size, left : left + self.size])
        return f_s(torch.from_numpy(square).movedim(-1, -3)[None], size)[0].movedim(-3, -1).numpy()


@dataclass(kw_only=True)
class FolderSet(ClipSet):
    """Video files, and folders of numbered images."""

    videos: list[Path]

    def __len__(self) -> int:
        return len(self.videos)

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        """As ClipSet.first, of the first video that can be decoded.

        Raises UserError, with what to give, where nobody said how large it is and that is more than MAX_CLIP_BYTES.
        """
        if frames is not None and size is not None:
            return frames, size
        for video in self.videos:
            try:
                facts = examine(video, float("inf"), self._image_rate).facts
                pixels = size or min(facts.width, facts.height)
                most = MAX_CLIP_BYTES // (3 * pixels**2) + 1  # and no more is decoded
                decoded, _ = self._decode(video, 0, min(frames or most, most), pixels)
            except (VideoError, FFmpegError):
                continue
            count = len(decoded)
            if 3 * count * pixels**2 > MAX_CLIP_BYTES:
                missing = [name for name, given in (("--frames", frames), ("--size", size)) if given is None]
                raise UserError(
                    f"{video}: {count} frames of {pixels}x{pixels} or more are too much for a clip: "
                    f"give {' and '.join(missing)}"
                )
            return frames or count, pixels
        raise UserError(f"{self.path}: no video in it can be decoded")

    def scaling(self, size: int) -> str:
        return f"short side scaled to {size} (ffmpeg's bilinear), the square in the middle"

    def _clip(self, video: int, frames: int, size: int, start: Start) -> Clip | None:
        path = self.videos[video]
        try:
            begin = 0 if start is _first else start(self._frames(path) - frames + 1)
            if begin is None:
                return None
            decoded, facts = self._decode(path, begin, frames, size)
        except (VideoError, FFmpegError) as error:
            log.warning("%s is left out: %s", path, error)
            return None
        if len(decoded) < frames:
            return None
        if not path.is_dir():  # of images, which say no rate
            self.rates.add(facts.fps / (self.frame_step or 1))
        return np.stack(decoded)

    def _frames(self, path: Path) -> int:
        """That a clip can have at most, by what the video's packets say."""
        source = examine(path, float("inf"), self._image_rate)
        return int(-(-source.packets // source.step(self.frame_step, self.fps)))

    def _decode(self, path: Path, begin: int, frames: int, size: int) -> tuple["_Last", VideoFacts]:
        """So many frames from `begin` on; the last so many of what ends before, or all of it."""
        sink = _Last(maxlen=frames)
        facts = decode_video(
            path, sink, frame_step=self.frame_step, fps=self.fps, size=size, crop="center", hdr="tone-map",
            max_frames=begin + frames, engine="pyav", timeout=TIMEOUT_SECONDS, image_rate=self._image_rate,
        )  # fmt: skip
        return sink, facts

    @property
    def _image_rate(self) -> float:
        return self.fps or IMAGE_FPS


class _Last(deque[np.ndarray]):
    """The last frames of what is decoded, which uses the memory of one again for the next."""

    def put(self, frame: np.ndarray) -> None:
        self.append(frame.copy())

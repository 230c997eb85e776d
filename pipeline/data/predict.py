"""How large the pyramid becomes, foretold from a sample of the videos."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
import zarr
from av.error import ExitError, FFmpegError
from jaxtyping import Float64, Int64, UInt8

from models.hierarchy import f_s, f_t
from pipeline.data.decode_pool import Settings
from pipeline.data.layouts.datasets import index_videos
from pipeline.data.layouts.listing import data_root, read_listing
from pipeline.data.store.codecs import Codec
from pipeline.data.store.reader import open_group
from pipeline.data.store.shard import Grid
from pipeline.data.store.size import StoreSize
from pipeline.data.video.frames import MAX_FRAMES, decode_video
from pipeline.data.video.source import Source, TooLate, VideoError, examine
from pipeline.data.windows import frames_in_view
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths

Name = Literal["none", "blosc", "jpeg"]  # of a codec
NAMES: tuple[Name, ...] = ("none", "blosc", "jpeg")

SAMPLE = 24  # videos looked at
PATIENCE = 8.0  # seconds; then those looked at so far are the sample
WORK = 4e8  # pixels decoded in all, a second or two
MOST = 240  # frames of a video that are decoded


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What decode will write.

    videos: that there are. sampled: how many of them were looked at. left_out: how many of these cannot be decoded or
        are too short.
    frames: of the top view, in all.
    sizes: by codec.
    spread: by codec, the standard error of all bytes; None where a single video cannot tell it.
    """

    videos: int
    sampled: int
    left_out: int
    frames: int
    sizes: dict[Name, StoreSize]
    spread: dict[Name, float | None]


def predict(params: Params, paths: Paths, videos: Sequence[str], codecs: Sequence[Name] = NAMES) -> Prediction:
    """What decode will make of `videos`, by SAMPLE of them, spread over the data set: their lengths as their packets
    say and, for the codecs that compress, the bytes of their first frames.

    The same files give the same answer, unless they are so slow to read that PATIENCE runs out.

    Raises UserError where none of the sample can be decoded.
    """
    root, grids = data_root(params, paths), _grids(params, len(videos))
    places = np.linspace(0, len(videos) - 1, min(SAMPLE, len(videos))).round().astype(int)
    look = _Look(params, grids, codecs, WORK / len(places), time.monotonic() + PATIENCE)
    seen: dict[int, _Video] = {}
    for place in np.random.default_rng(0).permutation(places):  # where time runs out, the rest is spread as well
        try:
            seen[int(place)] = look.at(root / videos[int(place)])
        except (TooLate, ExitError):
            break
    sample = [seen[place] for place in sorted(seen)]
    frames = np.array([video.frames for video in sample], np.int64)
    if not frames.any():
        raise UserError(
            f"data.root: of {len(sample)} videos looked at under {root} none can be decoded to decode.min_frames "
            f"frames within {PATIENCE:g} s"
        )
    files = {level: _files(frames, params, level, grid, len(videos)) for level, grid in grids.items()}
    indexes = {level: files[level] * (16 * params.decode.shard_videos * grids[level].chunks + 4) for level in grids}
    sizes: dict[Name, StoreSize] = {}
    spread: dict[Name, float | None] = {}
    for codec in codecs:
        each = {level: np.array([video.bytes[codec].get(level, 0) for video in sample]) for level in grids}
        total = {level: round(each[level].mean() * len(videos)) + indexes[level] for level in grids}
        sizes[codec] = StoreSize(files=files, bytes=total)
        spread[codec] = _standard_error(np.sum(list(each.values()), axis=0), len(videos))
    return Prediction(
        videos=len(videos),
        sampled=len(sample),
        left_out=int((frames == 0).sum()),
        frames=round(frames.mean() * len(videos)),
        sizes=sizes,
        spread=spread,
    )


def listed_videos(params: Params, paths: Paths) -> list[str]:
    """The paths of the data set's videos, sorted. Raises UserError where there is no listing, or no video in it."""
    listing = paths.root / params.data.listing
    if params.rendered and not listing.is_file():
        raise UserError(f"data.root: {params.data.root} is not there yet; make-shapes renders it")
    return list(index_videos(params.data, read_listing(listing), data_root(params, paths)).videos["path"])


def finished_table(params: Params, paths: Paths, videos: int | None = None) -> pd.DataFrame | None:
    """The table of the videos in data/pyramid, where there is one with these parameters' views; else None.

    videos: that the data set has, decodable or not; None: unknown.
    """
    try:
        group = open_group(paths.pyramid)
        views: dict[int, Any] = {level: group.get(f"level-{level}") for level in range(1, params.n_levels + 2)}
        if views.pop(params.n_levels + 1) is not None or None in views.values():
            return None
        top = cast("zarr.Array[Any]", views[params.n_levels])
        stored = Codec.of_array(top)
    except UserError:  # none yet, one whose URL does not answer, or an old one
        return None
    alike = (
        all(view.shape[2] == params.view(level).size for level, view in views.items())
        and all(view.attrs["time_factor"] == _factor(params, level) for level, view in views.items())
        and group.attrs.get("frame_step") == params.decode.frame_step
        and stored == _codec(params, params.decode.codec)
        and top.shape[1] <= (params.decode.max_frames or MAX_FRAMES)
        and videos in (None, top.shape[0])
    )
    return pd.read_parquet(paths.pyramid / "videos.parquet") if alike else None


@dataclass(frozen=True)
class _Video:
    """One of the sample: frames of the top view, 0 where it is left out; bytes of its chunks by codec and level."""

    frames: int
    bytes: dict[Name, dict[int, float]]


class _Frames:
    """Frames in memory; a `video.Sink`."""

    def __init__(self):
        self.frames: list[np.ndarray] = []

    def put(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        self.frames.append(frame.copy())

    def clear(self) -> None:
        self.frames.clear()


@dataclass(frozen=True)
class _Look:
    """How videos are looked at. work: pixels to decode of each. until: in time.monotonic()'s seconds."""

    params: Params
    grids: dict[int, Grid]
    codecs: Sequence[Name]
    work: float
    until: float

    def at(self, path: Path) -> _Video:
        """Look at one video. Raises TooLate or ExitError where time is up."""
        try:
            source = examine(path, self.until)
            frames, first = self._frames(source), None
            if not frames or set(self.codecs) - {"none"}:
                frames, first = self._decoded(source, frames)
        except (TooLate, ExitError):
            raise
        except (VideoError, FFmpegError):
            frames, first = 0, None
        if frames < max(self.params.decode.min_frames, 1):
            return _Video(0, {codec: {} for codec in self.codecs})
        views = {} if first is None else self._views(first)
        return _Video(frames, {codec: self._bytes(codec, frames, views) for codec in self.codecs})

    def _frames(self, source: Source) -> int:
        """How many the top view will have, by the packets' times or the header's duration; 0: neither says it."""
        if source.times:
            ticks = round((source.times[-1] - source.times[0]) * source.base * source.rate) + 1
        else:
            ticks = round((source.facts.seconds or 0) * source.rate)
        return min(-(-ticks // self.params.decode.frame_step), self.params.decode.max_frames or MAX_FRAMES)

    def _decoded(self, source: Source, frames: int) -> tuple[int, UInt8[np.ndarray, "T H W 3"]]:
        """The first frames of the top view, and how many there will be, which a video's end corrects."""
        chosen, size = self.params.decode, self.params.view(self.params.n_levels).size
        each = chosen.frame_step * source.facts.width * source.facts.height + size * size
        most = min(max(int(self.work / each), self.grids[max(self.grids)].chunk), MOST, chosen.max_frames or MOST)
        sink = _Frames()
        decode_video(
            source.path,
            sink,
            frame_step=chosen.frame_step,
            size=size,
            crop=chosen.crop,
            max_frames=most,
            engine="pyav",
            timeout=max(self.until - time.monotonic(), 0.001),
        )
        got = len(sink.frames)
        return got if got < most else max(got, frames), np.stack(sink.frames)

    def _views(self, top: UInt8[np.ndarray, "T H W 3"]) -> dict[int, UInt8[np.ndarray, "t h w 3"]]:
        views = {max(self.grids): top}
        for level in range(max(self.grids) - 1, 0, -1):
            clip = torch.from_numpy(views[level + 1]).permute(0, 3, 1, 2)[None]
            small = f_s(f_t(clip, self.params.factors[level - 1]), self.grids[level].size)
            views[level] = np.ascontiguousarray(small[0].permute(0, 2, 3, 1).numpy())
        return views

    def _bytes(self, name: Name, frames: int, views: dict[int, np.ndarray]) -> dict[int, float]:
        """Bytes of a video's chunks by level."""
        codec, found = _codec(self.params, name), {}
        for level, grid in self.grids.items():
            there = frames_in_view(frames, self.params.factors, level)
            if name == "none" or (codec.lossy and level < max(self.grids)):
                found[level] = -(-there // grid.chunk) * grid.chunk * grid.size**2 * 3.0
            else:
                seen = views[level]
                written = sum(len(codec.encode(chunk)) for chunk in _whole_chunks(seen, grid.chunk))
                found[level] = written * there / len(seen)
        return found


def _whole_chunks(frames: UInt8[np.ndarray, "T H W 3"], size: int) -> Iterator[UInt8[np.ndarray, "size H W 3"]]:
    """As a store holds them: the last one is filled up with zeros."""
    for start in range(0, len(frames), size):
        chunk = np.zeros((size, *frames.shape[1:]), np.uint8)
        chunk[: len(frames) - start] = frames[start : start + size]
        yield chunk


def _grids(params: Params, videos: int) -> dict[int, Grid]:
    """How the store will be cut, by level: an empty one is asked."""
    with TemporaryDirectory() as folder:
        settings = Settings.of(params, Path(), Path(folder), videos)
        return replace(settings, url=None).writer().grids


def _files(frames: Int64[np.ndarray, " sample"], params: Params, level: int, grid: Grid, videos: int) -> int:
    """Shard files of a view, taking the data set for the sample over and over: a shard has those of its longest."""
    chunks = -(-frames // (_factor(params, level) * grid.chunk))
    rows = np.resize(-(-chunks // grid.chunks), videos)
    return int(np.maximum.reduceat(rows, np.arange(0, videos, params.decode.shard_videos)).sum())


def _standard_error(sample: Float64[np.ndarray, " sample"], videos: int) -> float | None:
    """Of the sum over all videos, of which the sample was drawn without putting back."""
    count = len(sample)
    if count == videos:
        return 0.0
    if count == 1:
        return None
    return float(videos * sample.std(ddof=1) / math.sqrt(count) * math.sqrt(1 - count / videos))


def _codec(params: Params, name: Name) -> Codec:
    return Codec(name, params.decode.jpeg_quality) if name == "jpeg" else Codec(name)


def _factor(params: Params, level: int) -> int:
    """The K_T from a view to the top one."""
    return math.prod(params.factors[level - 1 :])

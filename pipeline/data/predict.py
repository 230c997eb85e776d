"""How large the pyramid becomes, foretold from a sample of the videos."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import zarr
from av.error import ExitError, FFmpegError
from jaxtyping import Float64, Int64

from pipeline.data.decode_pool import Job, decode_one, views
from pipeline.data.layouts.datasets import index_videos
from pipeline.data.layouts.listing import data_root, read_listing
from pipeline.data.store.codecs import Codec
from pipeline.data.store.reader import open_group
from pipeline.data.store.shard import Grid, ShardWriter
from pipeline.data.store.size import StoreSize
from pipeline.data.store.writer import cut
from pipeline.data.video.frames import MAX_FRAMES
from pipeline.data.video.source import Source, TooLate, VideoError, examine
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths

Name = Literal["none", "blosc", "jpeg"]  # of a codec
NAMES: tuple[Name, ...] = ("none", "blosc", "jpeg")

SAMPLE = 24  # videos looked at
PATIENCE_SECONDS = 8.0  # then those looked at so far are the sample
FRAMES = 36  # of a video's top view that are decoded


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

    The same files give the same answer, unless they are so slow to read that PATIENCE_SECONDS run out.

    Raises UserError where none of the sample can be decoded.
    """
    root, until = data_root(params, paths), time.monotonic() + PATIENCE_SECONDS
    grids: dict[Name, dict[int, Grid]] = {name: _grids(params, name) for name in codecs}
    places = np.linspace(0, len(videos) - 1, min(SAMPLE, len(videos))).round().astype(int)
    seen: dict[int, _Video] = {}
    for place in np.random.default_rng(0).permutation(places):  # where time runs out, the rest is spread as well
        try:
            seen[int(place)] = _look(params, root, videos[int(place)], grids, until)
        except (TooLate, ExitError):
            break
    sample = [seen[place] for place in sorted(seen)]
    frames = np.array([video.frames for video in sample], np.int64)
    if not frames.any():
        raise UserError(
            f"data.root: of {len(sample)} videos looked at under {root} none can be decoded to decode.min_frames "
            f"frames within {PATIENCE_SECONDS:g} s"
        )
    sizes: dict[Name, StoreSize] = {}
    spread: dict[Name, float | None] = {}
    rows = params.decode.shard_videos
    for name in codecs:
        files = {level: _files(frames, grid, rows, len(videos)) for level, grid in grids[name].items()}
        each = {level: np.array([video.bytes[name].get(level, 0) for video in sample]) for level in files}
        index = {level: files[level] * (16 * rows * grid.chunks + 4) for level, grid in grids[name].items()}
        total = {level: round(each[level].mean() * len(videos)) + index[level] for level in files}
        sizes[name] = StoreSize(files=files, bytes=total)
        spread[name] = _standard_error(np.sum(list(each.values()), axis=0), len(videos))
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
        names = [f"level-{level}" for level in range(1, params.n_levels + 2)]  # a further one is another pyramid's
        arrays = {name: cast("zarr.Array[Any]", group[name]) for name in names if name in group}
        found = {n: (a.shape[2], a.attrs["time_factor"], Codec.of_array(a)) for n, a in arrays.items()}
    except UserError:  # none yet, one whose URL does not answer, or an old one
        return None
    grids = _grids(params, params.decode.codec)
    if found != {f"level-{level}": (grid.size, grid.factor, grid.codec) for level, grid in grids.items()}:
        return None
    rows, frames = arrays[f"level-{params.n_levels}"].shape[:2]
    alike = (
        group.attrs.get("frame_step") == params.decode.frame_step
        and frames <= (params.decode.max_frames or MAX_FRAMES)
        and videos in (None, rows)
    )
    return pd.read_parquet(paths.pyramid / "videos.parquet") if alike else None


@dataclass(frozen=True)
class _Video:
    """One of the sample: frames of the top view, 0 where it is left out; bytes of its chunks by codec and level."""

    frames: int
    bytes: dict[Name, dict[int, float]]


def _look(params: Params, root: Path, path: str, grids: dict[Name, dict[int, Grid]], until: float) -> _Video:
    """Look at one video. until: in time.monotonic()'s seconds; raises TooLate or ExitError where it is past."""
    most, got, stored = min(FRAMES, params.decode.max_frames or FRAMES), 0, {}
    try:
        frames = _frames(examine(root / path, until), params)
        compressed: list[Name] = [name for name in grids if name != "none"]
        for name in compressed or ([] if frames else list(grids)):
            got, stored[name] = _stored(params, root / path, grids[name], most, until)
            frames = got if got < most else max(got, frames)  # a video's end corrects what its packets say
    except (TooLate, ExitError):
        raise
    except (VideoError, FFmpegError):
        frames = 0
    if frames < params.decode.min_frames:
        return _Video(0, {name: {} for name in grids})
    found: dict[Name, dict[int, float]] = {}
    for name, of_level in grids.items():
        for level, grid in of_level.items():
            there = -(-frames // grid.factor)
            if grid.codec.name == "none":
                size = -(-there // grid.chunk) * grid.chunk * grid.size**2 * 3.0
            else:
                size = stored[name][level] * there / -(-got // grid.factor)
            found.setdefault(name, {})[level] = size
    return _Video(frames, found)


def _frames(source: Source, params: Params) -> int:
    """How many the top view will have, by the packets' times or the header's duration; 0: neither says it."""
    if source.times:
        ticks = round((source.times[-1] - source.times[0]) * source.base * source.rate) + 1
    else:
        ticks = round((source.facts.seconds or 0) * source.rate)
    return min(-(-ticks // params.decode.frame_step), params.decode.max_frames or MAX_FRAMES)


def _stored(params: Params, path: Path, grids: dict[int, Grid], most: int, until: float) -> tuple[int, dict[int, int]]:
    """How many of a video's first `most` frames decode, and the bytes that they take by level."""
    left = max(until - time.monotonic(), 0.001)
    chosen = replace(params.decode, max_frames=most, min_frames=1, engine="pyav", timeout=left)
    with TemporaryDirectory() as folder:
        shard = ShardWriter(Path(folder) / "shard", grids, 1)
        facts = decode_one(Job(replace(params, decode=chosen), path.parent, Path(folder), 1), path.name, shard, 0)
        if time.monotonic() > until:
            raise TooLate
        return facts["n_frames"], {level: shard.stored(level) for level in grids}


def _grids(params: Params, name: Name) -> dict[int, Grid]:
    return cut(views(params), Codec.of(replace(params.decode, codec=name)))


def _files(frames: Int64[np.ndarray, " sample"], grid: Grid, shard_videos: int, videos: int) -> int:
    """Shard files of a view, taking the data set for the sample over and over: a shard has those of its longest."""
    chunks = -(-frames // (grid.factor * grid.chunk))
    rows = np.resize(-(-chunks // grid.chunks), videos)
    return int(np.maximum.reduceat(rows, np.arange(0, videos, shard_videos)).sum())


def _standard_error(sample: Float64[np.ndarray, " sample"], videos: int) -> float | None:
    """Of the sum over all videos, of which the sample was drawn without putting back."""
    count = len(sample)
    if count == videos:
        return 0.0
    if count == 1:
        return None
    return float(videos * sample.std(ddof=1) / math.sqrt(count) * math.sqrt(1 - count / videos))

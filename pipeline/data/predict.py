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
from av.error import FFmpegError
from jaxtyping import Float64, Int64

from pipeline.data.decode_pool import Decoding, decode_one, made_with, views
from pipeline.data.layouts.datasets import index_videos
from pipeline.data.layouts.listing import data_root, read_listing
from pipeline.data.store.codecs import Codec
from pipeline.data.store.opening import WAY_OUT, StoreSize, open_group, read_table
from pipeline.data.store.shard import Grid, ShardWriter
from pipeline.data.store.writer import cut
from pipeline.data.video.errors import VideoError
from pipeline.data.video.frames import MAX_FRAMES
from pipeline.data.video.source import Source, examine
from pipeline.errors import UserError, reading
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
    grids: dict[Name, dict[int, Grid]] = {
        name: cut(views(params), Codec.of(replace(params.decode, codec=name))) for name in codecs
    }
    places = np.linspace(0, len(videos) - 1, min(SAMPLE, len(videos))).round().astype(int)
    looks: dict[int, _Look] = {}
    for place in np.random.default_rng(0).permutation(places):  # where time runs out, the rest is spread as well
        look = _look(params, root / videos[int(place)], grids, until)
        if time.monotonic() > until:  # it may have been cut short
            break
        looks[int(place)] = look
    sample = [looks[place] for place in sorted(looks)]
    frames = np.array([look.frames for look in sample], np.int64)
    if not frames.any():
        raise UserError(
            f"data.root: of {len(sample)} videos looked at under {root} none can be decoded to decode.min_frames "
            f"frames within {PATIENCE_SECONDS:g} s"
        )
    sizes: dict[Name, StoreSize] = {}
    spread: dict[Name, float | None] = {}
    rows = params.decode.shard_videos
    for name, of_level in grids.items():
        files, stored, each = {}, {}, np.zeros(len(sample))
        for level, grid in of_level.items():
            there = -(-frames // grid.factor)
            if (raw := grid.codec.raw_bytes(grid.chunk, grid.size)) is not None:
                chunks = -(-there // grid.chunk) * raw
            else:
                chunks = there * [look.rates.get((name, level), 0) for look in sample]
            files[level] = _files(frames, grid, rows, len(videos))
            stored[level] = round(chunks.mean() * len(videos)) + files[level] * (16 * rows * grid.chunks + 4)
            each += chunks
        sizes[name] = StoreSize(files=files, bytes=stored)
        spread[name] = _standard_error(each, len(videos))
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
        group, table = open_group(paths.pyramid), read_table(paths.pyramid)
        with reading(paths.pyramid, WAY_OUT):
            rows = cast("zarr.Array[Any]", group["labels"]).shape[0]
    except UserError:  # none yet, one whose URL does not answer, an old or a damaged one
        return None
    same = all(group.attrs.get(name) == value for name, value in made_with(params).items())
    return table if same and videos in (None, rows) else None


@dataclass(frozen=True)
class _Look:
    """At one of the sample: frames of the top view, 0 where it is left out; bytes a frame by (codec, view)."""

    frames: int
    rates: dict[tuple[Name, int], float]


def _look(params: Params, path: Path, grids: dict[Name, dict[int, Grid]], until: float) -> _Look:
    """until: in time.monotonic()'s seconds; a look that lasts longer says nothing."""
    try:
        frames = _frames(examine(path, until, params.data.image_rate), params)
    except (VideoError, FFmpegError):
        return _Look(0, {})
    most, rates = min(FRAMES, params.decode.max_frames or FRAMES), {}
    for name, of_level in grids.items():
        if name == "none":  # as large as it is long
            continue
        left = max(until - time.monotonic(), 0.001)
        chosen = replace(params.decode, max_frames=most, min_frames=1, engine="pyav", timeout=left)
        with TemporaryDirectory() as folder:
            shard = ShardWriter(Path(folder) / "shard", of_level, 1)
            decoding = Decoding(replace(params, decode=chosen), path.parent, Path(folder), 1)
            decoded = decode_one(decoding, path.name, shard, 0)["n_frames"]
            for level, grid in of_level.items():
                rates[name, level] = shard.stored(level) / max(1, -(-decoded // grid.factor))
        frames = decoded if decoded < most else frames  # its end corrects what its packets say
    return _Look(frames if frames >= params.decode.min_frames else 0, rates)


def _frames(source: Source, params: Params) -> int:
    """How many the top view will have, by the times of the packets, or their number."""
    ticks = source.packets
    if source.times:
        length = source.without_pauses(source.times[-1]) - source.times[0]
        ticks = round(length * source.base * source.rate) + 1
    return min(
        -(-ticks // source.step(params.decode.frame_step, params.decode.fps)), params.decode.max_frames or MAX_FRAMES
    )


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

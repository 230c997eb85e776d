"""`hvg bench loader`: what it costs to read random windows, beside other ways to them, in one run.

CPU time of this process, from the page cache, of windows of the top view and the same moments of the view below, as
training takes them. Disks and networks are not measured.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pandas as pd
import zarr
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from pipeline.bench.rounds import interleaved, medians
from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.store.opening import open_group
from pipeline.data.store.reader import ViewReader
from pipeline.data.store.writer import StoreWriter
from pipeline.data.video.errors import VideoError
from pipeline.data.video.source import open_file, video_stream
from pipeline.errors import UserError
from pipeline.system.machine import cores, cpu_name

WINDOW = 12  # frames of the top view
COPIED_BYTES = 2**30  # of the top view that the memory-mapped copy has at most
COPY, OURS, ZARR, SOURCES = "np.memmap of a flat copy", "ViewReader", "zarr-python", "PyAV from the source, top view"
SHARE = {COPY: 1, OURS: 1, ZARR: 20, SOURCES: 200}  # slow ways read this part of the windows
FILES = 64  # sources
SOURCE_SECONDS = 60.0  # for one window of a source

Read = Callable[[int, int, int, int], Any]  # of a view (0: the top one) and a video: from a frame on, so many frames


def bench_loader(path: Path, root: Path | None, *, windows: int, rounds: int) -> dict[str, Any]:
    """Read `windows` random windows a round from the pyramid at `path`, in several ways.

    root: of videos, to decode windows from; None: not measured.

    Returns clips a CPU second, and their ratio to those of a memory-mapped copy, by way. Raises UserError where there
    is no pyramid, or no source can be decoded.
    """
    group, readers = open_group(path), _readers(path)
    top, step = readers[0], readers[-1].factor
    window = min(WINDOW, int(top.n_frames.max())) // step * step
    if window == 0:
        raise UserError(f"--pyramid {path}: no video has {step} frames, the shortest window")
    long = np.flatnonzero(top.n_frames >= window)
    videos = long[: max(1, COPIED_BYTES // int(top.n_frames[long].max() * top.size**2 * 3))]

    def read_windows(read: Read, count: int, draw: np.random.Generator) -> None:
        chosen = draw.choice(videos, count)
        starts = draw.integers((top.n_frames[chosen] - window) // step + 1) * step
        for video, start in zip(chosen.tolist(), starts.tolist(), strict=True):
            for view, reader in enumerate(readers):
                read(view, video, start // reader.factor, window // reader.factor)

    with tempfile.TemporaryDirectory() as folder:
        counts = {name: -(-windows // share) for name, share in SHARE.items()}
        reads: dict[str, Read] = {
            COPY: _copy(readers, videos, Path(folder)),
            OURS: lambda view, video, start, count: readers[view].read(video, start, count),
            ZARR: _zarr(group, readers),
        }
        ways: dict[str, Callable[[], None]] = {}
        for way, read in reads.items():
            ways[way] = partial(read_windows, read, counts[way], np.random.default_rng(0))
        if root is not None:
            speed: Any = {name: group.attrs.get(name) for name in ("frame_step", "fps")}
            ways[SOURCES] = _sources(root, counts[SOURCES], speed, frames=window, size=top.size)
        seconds = interleaved(ways, time.process_time, rounds=rounds, desc="bench loader")
    rates = pd.DataFrame({way: counts[way] / seconds[way] for way in ways})
    return {
        "clips_per_cpu_second": medians(rates),
        "to_memmap": medians(rates, COPY),
        "views": ", ".join(f"{window // view.factor}/{view.size}x{view.size} {view.codec.name}" for view in readers),
        "videos": len(videos),
        "windows": windows,
        "rounds": rounds,
        "machine": f"{cpu_name()}, {cores()} cores, zarr {zarr.__version__}, PyAV {av.__version__}",
    }


def write_synthetic(path: Path, *, videos: int, frames: int, size: int) -> None:
    """A raw pyramid of two views to measure with: noise, a quarter as large and half as fast below."""
    draw = np.random.default_rng(0)
    shard = min(64, videos)
    views = {1: (frames // 2, size // 4), 2: (frames, size)}
    writer = StoreWriter(path, views=views, videos=videos, shard_videos=shard)
    for first in range(0, videos, shard):
        top = draw.integers(0, 256, (min(shard, videos - first), frames, size, size, 3), np.uint8)
        writer.write(first, {1: top[:, ::2, ::4, ::4], 2: top})
    table = pd.DataFrame({"row": range(videos), "split": "train", "label": 0, "n_frames": frames})
    writer.finish(table, kind="pyramid", classes=["noise"], frame_step=1)


def _readers(path: Path) -> list[ViewReader]:
    """Of the top view and the one below it, if there is one."""
    group = open_group(path)
    last = next(level for level in itertools.count(1) if f"level-{level + 1}" not in group)
    return [ViewReader(path, level, in_memory=0) for level in range(last, max(last - 2, 0), -1)]


def _copy(readers: list[ViewReader], videos: np.ndarray, folder: Path) -> Read:
    """From files with nothing but the frames of the videos, as long as the longest."""
    copies = []
    for reader in readers:
        shape = (len(videos), int(reader.n_frames[videos].max()), reader.size, reader.size, 3)
        copies.append(np.lib.format.open_memmap(folder / f"{reader.size}.npy", "w+", np.uint8, shape))
        for place, video in enumerate(videos.tolist()):
            length = int(reader.n_frames[video])
            copies[-1][place, :length] = reader.read(video, 0, length)
    places = {video: place for place, video in enumerate(videos.tolist())}
    return lambda view, video, start, count: np.array(copies[view][places[video], start : start + count])


def _zarr(group: zarr.Group, readers: list[ViewReader]) -> Read:
    arrays = [cast("zarr.Array[Any]", group[f"level-{reader.level}"]) for reader in readers]
    rows = readers[0].rows.tolist()
    return lambda view, video, start, count: np.asarray(arrays[view][rows[video], start : start + count])


def _sources(root: Path, windows: int, speed: dict[str, Any], *, frames: int, size: int) -> Callable[[], None]:
    """So many windows at random moments of the videos below a folder."""
    read = partial(read_source, **speed, frames=frames, size=size)
    listed = (root / path for path, *_ in files_below(root, is_video))
    files = list(itertools.islice((file for file in listed if len(read(file, 0)) == frames), FILES))
    if not files:
        raise UserError(f"--videos: {root} has no video that can be decoded")
    draw = np.random.default_rng(0)

    def run() -> None:
        for number, moment in zip(draw.integers(len(files), size=windows), draw.random(windows), strict=True):
            read(files[number], moment)

    return run


def read_source(
    path: Path, moment: float, *, frame_step: int | None, fps: float | None = None, frames: int, size: int
) -> list[UInt8[np.ndarray, "{size} {size} 3"]]:
    """Every frame_step-th of a video's frames, squeezed: `frames` of them, fewer at its end, none where it is damaged.

    fps: in place of frame_step, frames a second, about.
    moment: where to begin, from 0, its beginning, to 1, so late that they still fit.
    """
    scaler = VideoReformatter()
    try:
        with open_file(path, time.monotonic() + SOURCE_SECONDS) as container:
            stream = video_stream(container, container.streams.video[0].index)
            rate = float(stream.average_rate or stream.guessed_rate or 30)
            step = frame_step or max(1, round(rate / (fps or rate)))
            free = max(0, (container.duration or 0) / av.time_base - frames * step / rate)
            begin = (container.start_time or 0) / av.time_base + moment * free
            container.seek(int(begin * av.time_base))
            later = (frame for frame in container.decode(stream) if frame.time is None or frame.time >= begin)
            kept = itertools.islice(later, 0, frames * step, step)
            return [scaler.reformat(frame, size, size, "rgb24", threads=1).to_ndarray() for frame in kept]
    except (FFmpegError, VideoError):
        return []

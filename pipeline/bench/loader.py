"""`hvg bench loader`: what it costs to read random windows, beside other ways to them, in one run.

CPU time of this process, from the page cache, of windows of the top view and the same moments of the view below, as
training takes them. Disks and networks are not measured.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pandas as pd
import zarr
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from pipeline.bench.rounds import interleaved, medians, ratios, table
from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.store.codecs import Codec
from pipeline.data.store.reader import ViewReader, open_group
from pipeline.data.store.writer import StoreWriter
from pipeline.data.video.source import VideoError, open_file, video_stream
from pipeline.errors import UserError
from pipeline.system.machine import cores, cpu_name

WINDOW = 12  # frames of the top view
COPIED_BYTES = 2**30  # of the top view that the memory-mapped copy has at most
COPY, OURS, ZARR, SOURCES = "np.memmap of a flat copy", "ViewReader", "zarr-python", "PyAV from the source, top view"
SHARE = {COPY: 1, OURS: 1, ZARR: 20, SOURCES: 200}  # slow ways read this part of the windows
SOURCE_SECONDS = 60.0  # for one window of a source

Way = Callable[[int, int], Any]  # of a video, from this frame of the top view on


@dataclass(frozen=True, kw_only=True)
class View:
    """A view that windows are taken of: its array, K_T to the top view, frames of a window."""

    array: "zarr.Array[Any]"
    reader: ViewReader
    factor: int
    window: int


def bench_loader(path: Path, root: Path | None, *, windows: int, rounds: int) -> dict[str, Any]:
    """Read `windows` random windows a round from the pyramid at `path`, in several ways.

    root: of the videos in the pyramid's table, to decode windows from; None: not measured.

    Returns clips a CPU second, and their ratio to those of a memory-mapped copy, by way. Raises UserError where there
    is no pyramid, or a source cannot be decoded.
    """
    views = _views(path)
    top, step = views[0], views[-1].factor
    long = np.flatnonzero(top.reader.n_frames >= top.window)
    videos = long[: max(1, COPIED_BYTES // int(top.reader.n_frames[long].max() * top.reader.size**2 * 3))]
    draw = np.random.default_rng(0)
    drawn: list[list[tuple[int, int]]] = []
    for _ in range(rounds + 1):
        chosen = draw.choice(videos, windows)
        starts = draw.integers((top.reader.n_frames[chosen] - top.window) // step + 1) * step
        drawn.append(list(zip(chosen.tolist(), starts.tolist(), strict=True)))
    parts = {name: -(-windows // share) for name, share in SHARE.items()}

    def over(name: str, way: Way) -> Callable[[int], None]:
        def run(number: int) -> None:
            for video, start in drawn[number][: parts[name]]:
                way(video, start)

        return run

    with tempfile.TemporaryDirectory() as folder:
        ways = {COPY: _copy(views, videos, Path(folder)), OURS: _ours(views), ZARR: _zarr(views)}
        if root is not None:
            ways[SOURCES] = _sources(root, int(cast(int, open_group(path).attrs["frame_step"])), top)
        runs = {name: over(name, way) for name, way in ways.items()}
        seconds = interleaved(runs, time.process_time, rounds=rounds, desc="bench loader")
    rates = {name: [parts[name] / taken for taken in of_rounds] for name, of_rounds in seconds.items()}
    return {
        "views": [f"{view.window}/{view.reader.size}x{view.reader.size}" for view in views],
        "codecs": [Codec.of_array(view.array).name for view in views],
        "videos": len(videos),
        "windows": windows,
        "rounds": rounds,
        "clips_per_cpu_second": medians(rates),
        "to_memmap": ratios(rates, COPY),
        "machine": f"{cpu_name()}, {cores()} cores, zarr {zarr.__version__}, PyAV {av.__version__}",
    }


def loader_table(cost: dict[str, Any]) -> str:
    """The measurements as a table for people."""
    views = " and ".join(f"{view} ({codec})" for view, codec in zip(cost["views"], cost["codecs"], strict=True))
    return table(
        f"windows of {views} out of {cost['videos']} videos; median of {cost['rounds']} rounds of {cost['windows']}",
        {
            "clips a CPU second": ("{:.0f}", cost["clips_per_cpu_second"]),
            "to memmap": ("{:.4f}", cost["to_memmap"]),
        },
        [cost["machine"]],
    )


def write_synthetic(path: Path, root: Path | None, *, videos: int, frames: int, size: int) -> None:
    """A raw pyramid of two views to measure with: noise, a quarter as large and half as fast below.

    root: a folder of videos; the table names them, over and over, as what the noise was decoded from.
    """
    listed = [root / path for path, *_ in files_below(root, is_video)] if root is not None else []
    sources = list(itertools.islice(filter(_decodes, listed), videos))
    if root is not None and not sources:
        raise UserError(f"--videos: {root} has no video that can be decoded")
    draw = np.random.default_rng(0)
    shard = min(64, videos)
    writer = StoreWriter(
        path, views={1: (frames // 2, size // 4), 2: (frames, size)}, videos=videos, shard_videos=shard
    )
    for first in range(0, videos, shard):
        top = draw.integers(0, 256, (min(shard, videos - first), frames, size, size, 3), np.uint8)
        writer.write(first, {1: top[:, ::2, ::4, ::4], 2: top})
    table = {"row": range(videos), "split": "train", "label": 0, "n_frames": frames}
    names = [str(sources[row % len(sources)].relative_to(cast(Path, root))) if sources else "" for row in range(videos)]
    writer.finish(pd.DataFrame({**table, "path": names}), kind="pyramid", classes=["noise"], frame_step=1)


def _views(path: Path) -> list[View]:
    """The top view and the one below it, if there is one."""
    group = open_group(path)
    last = next(level for level in itertools.count(1) if f"level-{level + 1}" not in group)
    levels = range(last, max(last - 2, 0), -1)
    arrays = [cast("zarr.Array[Any]", group[f"level-{level}"]) for level in levels]
    readers = [ViewReader(path, level, in_memory=0) for level in levels]
    factors = [int(cast(int, array.attrs["time_factor"])) for array in arrays]
    window = min(WINDOW, int(readers[0].n_frames.max())) // factors[-1] * factors[-1]
    if window == 0:
        raise UserError(f"--pyramid {path}: no video has {factors[-1]} frames, the shortest window")
    return [
        View(array=array, reader=reader, factor=factor, window=window // factor)
        for array, reader, factor in zip(arrays, readers, factors, strict=True)
    ]


def _copy(views: list[View], videos: np.ndarray, folder: Path) -> Way:
    """From files with nothing but the frames of the videos, one behind another."""
    copies = {}
    for view in views:
        reader, file = view.reader, folder / f"{view.reader.size}.npy"
        frames = [reader.read(video, 0, int(reader.n_frames[video])) for video in videos.tolist()]
        np.save(file, np.concatenate(frames))
        copied = np.load(file, mmap_mode="r")
        copied.max()  # maps every page: the copy at its best
        lengths = reader.n_frames[videos]
        copies[reader.size] = copied, dict(zip(videos.tolist(), np.cumsum(lengths) - lengths, strict=True))

    def read(view: View, video: int, at: int) -> np.ndarray:
        copied, first = copies[view.reader.size]
        return np.array(copied[first[video] + at : first[video] + at + view.window])

    return _each(views, read)


def _ours(views: list[View]) -> Way:
    return _each(views, lambda view, video, at: view.reader.read(video, at, view.window))


def _zarr(views: list[View]) -> Way:
    def read(view: View, video: int, at: int) -> np.ndarray:
        return np.asarray(view.array[int(view.reader.rows[video]), at : at + view.window])

    return _each(views, read)


def _each(views: list[View], read: Callable[[View, int, int], np.ndarray]) -> Way:
    """The same moments of every view, each read from a frame of its own on."""
    return lambda video, start: [read(view, video, start // view.factor) for view in views]


def _sources(root: Path, frame_step: int, top: View) -> Way:
    paths = [root / path for path in top.reader.videos["path"]]
    return lambda video, start: read_source(
        paths[video], start * frame_step, frame_step=frame_step, frames=top.window, size=top.reader.size
    )


def read_source(
    path: Path, first: int, *, frame_step: int, frames: int, size: int
) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """Every frame_step-th of a video's frames from about the one numbered `first` on, squeezed to size x size.

    At most `frames` of them, and no later than they fit before the end. UserError where nothing decodes.
    """
    scaler = VideoReformatter()
    images: list[np.ndarray] = []
    try:
        with open_file(path, time.monotonic() + SOURCE_SECONDS) as container:
            stream = video_stream(container, container.streams.video[0].index)
            rate, base = stream.average_rate or stream.guessed_rate or 30, stream.time_base
            assert base is not None
            length = stream.duration * base if stream.duration is not None else (container.duration or 0) / av.time_base
            seconds = max(0, min(first / rate, float(length) - frames * frame_step / rate))
            moment = (stream.start_time or 0) + int(seconds / base)
            container.seek(moment, stream=stream, backward=True)
            passed = 0
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts < moment:
                    continue
                if passed % frame_step == 0:
                    images.append(scaler.reformat(frame, size, size, "rgb24", threads=1).to_ndarray())
                passed += 1
                if len(images) == frames:
                    break
    except (FFmpegError, VideoError) as error:
        raise UserError(f"--videos: {path} cannot be decoded: {error}") from error
    if not images:
        raise UserError(f"--videos: {path} has no frame from frame {first} on")
    return np.stack(images)


def _decodes(path: Path) -> bool:
    try:
        return len(read_source(path, 0, frame_step=1, frames=WINDOW, size=16)) == WINDOW
    except UserError:
        return False

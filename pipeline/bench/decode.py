"""`hvg bench decode`: what it costs to decode, beside other decoders, on the same files in one run.

CPU time a frame of the source, of this process and its children, from the page cache, every decoder with one
thread. `decode` writes the pyramid as well; the others only decode.
"""

import multiprocessing
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import torch
from av.error import FFmpegError

from pipeline.bench.rounds import interleaved, medians
from pipeline.data.decode_pool import Decoding, Shard, decode_one, decode_shards
from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.video.errors import VideoError
from pipeline.data.video.source import open_file, video_stream
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.system.machine import cores, cpu_name

FOREVER_SECONDS = 3600
WORK_SECONDS = 6.0  # that every one of several workers is given to do
PYAV, FFMPEG = "pyav, all frames", "ffmpeg -f null"


def bench_decode(params: Params, folder: Path, *, rounds: int, files: int, workers: int) -> dict[str, Any]:
    """Decode the first `files` videos under `folder` into the views of the parameters, and by other decoders.

    Returns CPU microseconds a frame of the source by decoder, and how much faster `workers` workers are than one.
    Raises UserError where nothing there can be decoded.
    """
    counts = _frames(folder, files)
    paths, frames = tuple(counts), sum(counts.values())
    chosen = replace(params.decode, timeout=FOREVER_SECONDS, store=None, shard_videos=len(paths))
    decoding = Decoding(replace(params, decode=chosen), folder, Path(), len(paths))
    size = params.view(params.n_levels).size

    def over(decoder: Callable[[Path], Any]) -> None:
        for path in paths:
            decoder(folder / path)

    decoders = _decoders(size, chosen.frame_step or 1)
    ways = {"decode": partial(_pyramid, decoding, paths)} | {name: partial(over, one) for name, one in decoders.items()}
    torch.set_num_threads(1)
    seconds = interleaved(ways, _cpu_seconds, rounds=rounds, desc="bench decode")
    cost = medians(seconds / frames * 1e6)
    copies = workers * round(min(16, max(1, WORK_SECONDS / (cost["decode"] * frames / 1e6))))
    return {
        "cpu_us_per_frame": cost,
        "to_pyav": medians(seconds, PYAV),
        "to_ffmpeg": medians(seconds, FFMPEG),
        "files": len(paths),
        "frames": frames,
        "rounds": rounds,
        "views": ", ".join(f"{view.size}x{view.size}" for view in params.views.values()),
        "frame_step": chosen.frame_step,
        "fps": chosen.fps,
        "codec": chosen.codec,
        "workers": workers,
        **_speedups(decoding, paths, copies, workers, rounds),
        "machine": f"{cpu_name()}, {cores()} cores, PyAV {av.__version__}",
    }


def _frames(folder: Path, files: int) -> dict[str, int]:
    """The first videos that can be decoded, and their lengths."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    counts = {}
    for path, *_ in files_below(folder, is_video):
        if len(counts) == files:
            break
        with suppress(VideoError, FFmpegError):  # decode lists it; here it is no work to measure
            if count := _pyav(folder / path):
                counts[path] = count
    if not counts:
        raise UserError(f"{folder}: no video here that can be decoded")
    return counts


def _pyramid(decoding: Decoding, paths: tuple[str, ...]) -> None:
    """What a worker does: from files to a finished shard."""
    with tempfile.TemporaryDirectory() as folder:
        decoding = replace(decoding, work=Path(folder))
        with decoding.writer().shard(0) as shard:
            for row, path in enumerate(paths):
                decode_one(decoding, path, shard, row)


def _decoders(size: int, step: int) -> dict[str, Callable[[Path], Any]]:
    """Other ways to decode a file, by name."""
    decoders: dict[str, Callable[[Path], Any]] = {PYAV: _pyav, FFMPEG: _ffmpeg}
    with suppress(ImportError, RuntimeError, OSError):  # torchcodec without the libraries of ffmpeg raises the latter
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
        from torchcodec.transforms import Resize  # pyright: ignore[reportMissingImports]

        def torchcodec(file: Path) -> None:
            decoder = VideoDecoder(str(file), num_ffmpeg_threads=1, transforms=[Resize((size, size))])
            decoder.get_frames_in_range(0, len(decoder), step)

        decoders["torchcodec, top view alone"] = torchcodec
    with suppress(ImportError, OSError):
        import decord  # pyright: ignore[reportMissingImports]

        def by_decord(file: Path) -> None:
            reader = decord.VideoReader(str(file), ctx=decord.cpu(0), width=size, height=size, num_threads=1)
            reader.get_batch(range(0, len(reader), step)).asnumpy()

        decoders["decord, top view alone"] = by_decord
    return decoders


def _pyav(file: Path) -> int:
    """Decode every frame, by one thread. Returns their number."""
    with open_file(file, time.monotonic() + FOREVER_SECONDS) as container:
        return sum(1 for _ in container.decode(video_stream(container, container.streams.video[0].index)))


def _ffmpeg(file: Path) -> None:
    quiet = ["-nostdin", "-v", "quiet"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, "-threads", "1", "-i", f"file:{file.absolute()}"]
    subprocess.run([*command, "-map", "0:v:0", "-an", "-f", "null", "-"], check=False)  # damaged files end with 1


def _speedups(decoding: Decoding, paths: tuple[str, ...], copies: int, workers: int, rounds: int) -> dict[str, float]:
    """Wall time of one worker over that of several, of the stage's own pool and of bare PyAV in as many processes."""
    context = multiprocessing.get_context("forkserver")

    def decode(count: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shards = [Shard(number * len(paths), paths) for number in range(copies)]
            decode_shards(shards, replace(decoding, work=Path(folder), videos=len(paths) * copies), count)

    def pyav(count: int) -> None:
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            list(pool.map(_pyav, [decoding.root / path for path in paths * copies]))

    ways = {f"{way.__name__} by {count}": partial(way, count) for count in (1, workers) for way in (decode, pyav)}
    seconds = medians(interleaved(ways, time.perf_counter, rounds=rounds, desc="bench workers"))
    return {
        "speedup": seconds["decode by 1"] / seconds[f"decode by {workers}"],
        "speedup_of_pyav": seconds["pyav by 1"] / seconds[f"pyav by {workers}"],
    }


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

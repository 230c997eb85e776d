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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import torch
from av.error import FFmpegError

from pipeline.bench.rounds import interleaved, medians, table
from pipeline.data.decode_pool import Job, Shard, decode_one, decode_shards
from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.video.source import VideoError, open_file, video_stream
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.system.machine import cores, cpu_name

FOREVER_SECONDS = 3600
WORK_SECONDS = 6.0  # that one worker is given to do
PYAV, FFMPEG = "pyav, all frames", "ffmpeg -f null"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is decoded: files, and how many frames they have in all."""

    params: Params
    root: Path
    paths: tuple[str, ...]
    frames: int

    def job(self, work: Path, videos: int, shard_videos: int) -> Job:
        chosen = replace(self.params.decode, timeout=FOREVER_SECONDS, store=None, shard_videos=shard_videos)
        return Job(replace(self.params, decode=chosen), self.root, work, videos)


def bench_decode(params: Params, folder: Path, *, rounds: int, files: int, workers: int) -> dict[str, Any]:
    """Decode the first `files` videos under `folder` into the views of the parameters, and by other decoders.

    Returns CPU microseconds a frame of the source by decoder, and how much faster `workers` workers are than one.
    Raises UserError where nothing there can be decoded.
    """
    bench = _bench(params, folder, files)
    contenders = _contenders(bench)
    torch.set_num_threads(1)
    seconds = medians(interleaved(contenders, _cpu_seconds, rounds=rounds, desc="bench decode"))
    return {
        "files": len(bench.paths),
        "frames": bench.frames,
        "rounds": rounds,
        "views": {level: f"{view.size}x{view.size}" for level, view in params.views.items()},
        "frame_step": params.decode.frame_step,
        "codec": params.decode.codec,
        "cpu_us_per_frame": {name: median / bench.frames * 1e6 for name, median in seconds.items()},
        "to_pyav": {name: median / seconds[PYAV] for name, median in seconds.items()},
        "to_ffmpeg": {name: median / seconds[FFMPEG] for name, median in seconds.items()},
        "workers": _scaling(bench, workers, rounds),
        "machine": f"{cpu_name()}, {cores()} cores, PyAV {av.__version__}",
    }


def decode_table(cost: dict[str, Any]) -> str:
    """The measurements as a table for people."""
    scaling = cost["workers"]
    return table(
        f"{cost['files']} files, {cost['frames']} frames, every {cost['frame_step']}th kept, views "
        f"{', '.join(reversed(cost['views'].values()))}, codec {cost['codec']}; median of {cost['rounds']} rounds",
        {
            "CPU us a frame": ("{:.1f}", cost["cpu_us_per_frame"]),
            "to PyAV": ("{:.2f}", cost["to_pyav"]),
            "to ffmpeg": ("{:.2f}", cost["to_ffmpeg"]),
        },
        [
            f"{scaling['workers']} workers: {scaling['speedup']:.2f} times one in wall time; decoding alone, by as "
            f"many processes of PyAV: {scaling['speedup_of_pyav']:.2f}",
            cost["machine"],
        ],
    )


def _bench(params: Params, folder: Path, files: int) -> Bench:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    paths, frames = [], 0
    for path, *_ in files_below(folder, is_video):
        if len(paths) == files:
            break
        try:
            count = _pyav(folder / path)
        except (VideoError, FFmpegError):  # decode lists it; here it is no work to measure
            continue
        if count:
            paths.append(path)
            frames += count
    if not paths:
        raise UserError(f"{folder}: no video here that can be decoded")
    return Bench(params=params, root=folder, paths=tuple(paths), frames=frames)


def _contenders(bench: Bench) -> dict[str, Callable[[int], None]]:
    """What is measured by name: each goes once over all files."""
    size, step = bench.params.view(bench.params.n_levels).size, bench.params.decode.frame_step
    files = [bench.root / path for path in bench.paths]

    def over(one: Callable[[Path], Any]) -> Callable[[int], None]:
        def run(_: int) -> None:
            for file in files:
                one(file)

        return run

    contenders = {"decode": lambda _: _pyramid(bench), PYAV: over(_pyav), FFMPEG: over(_ffmpeg)}
    with suppress(ImportError, RuntimeError, OSError):  # torchcodec without the libraries of ffmpeg raises the latter
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
        from torchcodec.transforms import Resize  # pyright: ignore[reportMissingImports]

        def torchcodec(file: Path) -> None:
            decoder = VideoDecoder(str(file), num_ffmpeg_threads=1, transforms=[Resize((size, size))])
            decoder.get_frames_in_range(0, len(decoder), step)

        contenders["torchcodec, top view alone"] = over(torchcodec)
    with suppress(ImportError, OSError):
        import decord  # pyright: ignore[reportMissingImports]

        def by_decord(file: Path) -> None:
            reader = decord.VideoReader(str(file), ctx=decord.cpu(0), width=size, height=size, num_threads=1)
            reader.get_batch(range(0, len(reader), step)).asnumpy()

        contenders["decord, top view alone"] = over(by_decord)
    return contenders


def _pyramid(bench: Bench) -> None:
    """What a worker does: from files to a finished store."""
    with tempfile.TemporaryDirectory() as folder:
        rows = bench.params.decode.shard_videos
        job = bench.job(Path(folder), len(bench.paths), rows)
        writer = job.writer()
        for first in range(0, len(bench.paths), rows):
            with writer.shard(first) as shard:
                for row, path in enumerate(bench.paths[first : first + rows]):
                    decode_one(job, path, shard, row)


def _pyav(file: Path) -> int:
    """Decode every frame, by one thread. Returns their number."""
    with open_file(file, time.monotonic() + FOREVER_SECONDS) as container:
        return sum(1 for _ in container.decode(video_stream(container, container.streams.video[0].index)))


def _ffmpeg(file: Path) -> None:
    quiet = ["-nostdin", "-v", "quiet"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, "-threads", "1", "-i", f"file:{file.absolute()}"]
    subprocess.run([*command, "-map", "0:v:0", "-an", "-f", "null", "-"], check=False)  # damaged files end with 1


def _scaling(bench: Bench, workers: int, rounds: int) -> dict[str, Any]:
    """Wall time of one worker over that of several, of the stage's own pool and of bare PyAV in as many processes."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:

        def decode(count: int, copies: int) -> None:
            with tempfile.TemporaryDirectory() as folder:
                videos = len(bench.paths)
                job = bench.job(Path(folder), videos * copies, videos)
                decode_shards([Shard(number * videos, bench.paths) for number in range(copies)], job, count)

        def pyav(count: int, copies: int) -> None:
            for job in [pool.submit(_pyav_files, bench, part, count, copies) for part in range(count)]:
                job.result()

        decode(1, 1)  # the first worker waits for the server that forks all of them
        began = time.perf_counter()
        decode(1, 1)
        copies = workers * max(1, min(16, round(WORK_SECONDS / workers / (time.perf_counter() - began))))
        ways = {
            f"{way.__name__} by {count}": lambda _, way=way, count=count: way(count, copies)
            for count in (1, workers)
            for way in (decode, pyav)
        }
        seconds = medians(interleaved(ways, time.perf_counter, rounds=rounds, desc="bench workers"))
    return {
        "workers": workers,
        "speedup": seconds["decode by 1"] / seconds[f"decode by {workers}"],
        "speedup_of_pyav": seconds["pyav by 1"] / seconds[f"pyav by {workers}"],
    }


def _pyav_files(bench: Bench, part: int, parts: int, copies: int) -> None:
    files = [bench.root / path for path in bench.paths] * copies
    for file in files[part::parts]:
        _pyav(file)


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

"""`hvg bench decode`: what it costs to decode, beside other decoders, on the same files in one run.

CPU time a frame of the source, of this process and its children, from the page cache, every decoder with one
thread; rounds are interleaved and their median is taken. `decode` writes the pyramid as well; the others only decode.
"""

import multiprocessing
import resource
import statistics
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

from pipeline.data.decode_pool import Job, Shard, decode_one, decode_shards
from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.video.source import VideoError, open_file, video_stream
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.system.machine import cores, cpu_name

FOREVER = 3600  # seconds
SECONDS = 6.0  # that one worker is given to do


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is decoded: files, and how many frames they have in all."""

    params: Params
    root: Path
    paths: tuple[str, ...]
    frames: int

    def job(self, work: Path, videos: int, shard_videos: int) -> Job:
        chosen = replace(self.params.decode, timeout=FOREVER, store=None, shard_videos=shard_videos)
        return Job(replace(self.params, decode=chosen), self.root, work, videos)


def bench_decode(params: Params, folder: Path, *, rounds: int, files: int, workers: int) -> dict[str, Any]:
    """Decode the first `files` videos under `folder` into the views of the parameters, and by other decoders.

    Returns CPU microseconds a frame of the source by decoder, and how much faster `workers` workers are than one.
    Raises UserError where nothing there can be decoded.
    """
    bench = _bench(params, folder, files)
    contenders = _contenders(bench)
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with progress(total=(rounds + 1) * len(contenders), desc="bench decode", unit="runs") as bar:
        for turn in range(rounds + 1):
            for name, run in contenders.items():
                before = _cpu()
                run()
                if turn:  # the first warms up
                    seconds[name].append(_cpu() - before)
                bar.update()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "files": len(bench.paths),
        "frames": bench.frames,
        "rounds": rounds,
        "views": {level: f"{view.size}x{view.size}" for level, view in params.views.items()},
        "frame_step": params.decode.frame_step,
        "codec": params.decode.codec,
        "cpu_us_per_frame": {name: median / bench.frames * 1e6 for name, median in medians.items()},
        "to_pyav": {name: median / medians["pyav, all frames"] for name, median in medians.items()},
        "to_ffmpeg": {name: median / medians["ffmpeg -f null"] for name, median in medians.items()},
        "workers": _scaling(bench, workers, rounds),
        "machine": f"{cpu_name()}, {cores()} cores, PyAV {av.__version__}",
    }


def render(found: dict[str, Any]) -> str:
    """The measurements as a table for people."""
    lines = [
        f"{found['files']} files, {found['frames']} frames, every {found['frame_step']}th kept, views "
        f"{', '.join(reversed(found['views'].values()))}, codec {found['codec']}; median of {found['rounds']} rounds",
        "",
        f"{'':34}{'CPU us a frame':>16}{'to PyAV':>10}{'to ffmpeg':>11}",
    ]
    for name, cost in found["cpu_us_per_frame"].items():
        lines.append(f"{name:34}{cost:16.1f}{found['to_pyav'][name]:10.2f}{found['to_ffmpeg'][name]:11.2f}")
    scaling = found["workers"]
    lines += [
        "",
        f"{scaling['workers']} workers: {scaling['speedup']:.2f} times one in wall time; decoding alone, by as many "
        f"processes of PyAV: {scaling['speedup_of_pyav']:.2f}",
        found["machine"],
    ]
    return "\n".join(lines)


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


def _contenders(bench: Bench) -> dict[str, Callable[[], None]]:
    """What is measured by name: each goes once over all files."""
    size, step = bench.params.view(bench.params.n_levels).size, bench.params.decode.frame_step
    files = [bench.root / path for path in bench.paths]

    def over(one: Callable[[Path], Any]) -> Callable[[], None]:
        def run() -> None:
            for file in files:
                one(file)

        return run

    found = {"decode": lambda: _pyramid(bench), "pyav, all frames": over(_pyav), "ffmpeg -f null": over(_ffmpeg)}
    with suppress(ImportError, RuntimeError, OSError):  # torchcodec without the libraries of ffmpeg raises the latter
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
        from torchcodec.transforms import Resize  # pyright: ignore[reportMissingImports]

        def torchcodec(file: Path) -> None:
            decoder = VideoDecoder(str(file), num_ffmpeg_threads=1, transforms=[Resize((size, size))])
            decoder.get_frames_in_range(0, len(decoder), step)

        found["torchcodec, top view alone"] = over(torchcodec)
    with suppress(ImportError, OSError):
        import decord  # pyright: ignore[reportMissingImports]

        def by_decord(file: Path) -> None:
            reader = decord.VideoReader(str(file), ctx=decord.cpu(0), width=size, height=size, num_threads=1)
            reader.get_batch(range(0, len(reader), step)).asnumpy()

        found["decord, top view alone"] = over(by_decord)
    return found


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
    with open_file(file, time.monotonic() + FOREVER) as container:
        return sum(1 for _ in container.decode(video_stream(container)))


def _ffmpeg(file: Path) -> None:
    quiet = ["-nostdin", "-v", "quiet"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, "-threads", "1", "-i", f"file:{file.absolute()}"]
    subprocess.run([*command, "-map", "0:v:0", "-an", "-f", "null", "-"], check=False)  # damaged files end with 1


def _scaling(bench: Bench, workers: int, rounds: int) -> dict[str, Any]:
    """Wall time of one worker over that of several, of the stage's own pool and of bare PyAV in as many processes."""
    times: dict[tuple[str, int], list[float]] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:

        def run(count: int, copies: int) -> tuple[float, float]:
            start = time.perf_counter()
            _pooled(bench, copies, count)
            middle = time.perf_counter()
            for job in [pool.submit(_pyav_files, bench, part, count, copies) for part in range(count)]:
                job.result()
            return middle - start, time.perf_counter() - middle

        run(workers, workers)  # starts the processes
        once = run(1, 1)[0]
        copies = workers * max(1, min(16, round(SECONDS / workers / once)))
        for _ in range(rounds):
            for count in (1, workers):
                for name, wall in zip(("decode", "pyav"), run(count, copies), strict=True):
                    times.setdefault((name, count), []).append(wall)
    median = {key: statistics.median(values) for key, values in times.items()}
    return {
        "workers": workers,
        "speedup": median["decode", 1] / median["decode", workers],
        "speedup_of_pyav": median["pyav", 1] / median["pyav", workers],
    }


def _pooled(bench: Bench, copies: int, workers: int) -> None:
    """The stage's pool on the files, a shard for each of so many copies."""
    with tempfile.TemporaryDirectory() as folder:
        count = len(bench.paths)
        job = bench.job(Path(folder), count * copies, count)
        decode_shards([Shard(number * count, bench.paths) for number in range(copies)], job, workers)


def _pyav_files(bench: Bench, part: int, parts: int, copies: int) -> None:
    files = [bench.root / path for path in bench.paths] * copies
    for file in files[part::parts]:
        _pyav(file)


def _cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

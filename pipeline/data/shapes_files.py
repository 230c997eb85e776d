"""The embedded data set's files: H.264 videos in the layout of Kinetics, the same bytes on every run."""

import base64
import hashlib
import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pandas as pd

from pipeline.data.layouts.walk import list_files, listing_bytes
from pipeline.data.shapes import KINDS, SETS, render
from pipeline.errors import UserError
from pipeline.params import ShapesParams
from pipeline.paths import Paths, alone, publish, write_atomic
from pipeline.progress import progress
from pipeline.system.tether import die_with_parent
from pipeline.system.values import fingerprint

WRITTEN_AT = 946_684_800  # seconds, 2000-01-01: every file's time, so that the listing is the same wherever it is made
_NAMES = "|".join(KINDS)
OURS = re.compile(  # the files of a set, whatever its parameters
    rf"(train|val|listing)\.csv|(train|val)/({_NAMES})/[\w-]{{11}}_\d{{6}}_\d{{6}}\.mp4"
)
BATCH = 16  # videos a task


@dataclass(frozen=True)
class Task:
    """One video to be rendered."""

    kind: str  # a class, by name
    split: str
    id: str
    start: int  # seconds, as if it were cut out of a longer video
    end: int
    seed: int

    @property
    def path(self) -> str:
        return f"{self.split}/{self.kind}/{self.id}_{self.start:06d}_{self.end:06d}.mp4"


def make_shapes(params: ShapesParams, key: str, seed: int, paths: Paths, workers: int) -> Path:
    """Render a set of shapes to data/<key>, which it returns: videos, train.csv, val.csv and listing.csv.

    key: the set's name in params.shapes, and part of its randomness: two sets share no video.

    Raises UserError as `check_replaceable` does.
    """
    check_replaceable(key, paths)
    out = paths.root / "data" / key
    work = paths.work("make-shapes", fingerprint(params, key, seed), out)
    with alone(work):
        _render(work, params, key, seed, workers)
        publish(work, out)
    return out


def check_replaceable(key: str, paths: Paths) -> None:
    """Raise UserError where data/<key> is, or holds, anything but what `make_shapes` writes: it would be gone."""
    out = paths.root / "data" / key
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_symlink() or not file.is_dir()]
    for file in files:
        if not OURS.fullmatch(file.relative_to(out).as_posix()):
            way_out = "move it away, or give the set another name"
            raise UserError(f"shapes.{key}: make-shapes would remove {file}, which is none of its own: {way_out}")


def _render(work: Path, params: ShapesParams, key: str, seed: int, workers: int) -> None:
    shutil.rmtree(work)
    tasks = [*_tasks("train", params.train, params, key, seed), *_tasks("val", params.val, params, key, seed)]
    for folder in {(work / task.path).parent for task in tasks}:
        folder.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent) as pool:
        rendered = pool.map(partial(_render_one, work, params), tasks, chunksize=BATCH)
        for _ in progress(rendered, total=len(tasks), desc=f"render {key}", unit="videos"):
            pass
    for split in ("train", "val"):
        rows = [(t.kind, t.id, t.start, t.end, split) for t in tasks if t.split == split]
        table = pd.DataFrame(sorted(rows), columns=["label", "youtube_id", "time_start", "time_end", "split"])
        write_atomic(work / f"{split}.csv", table.to_csv(index=False, lineterminator="\n"))
        os.utime(work / f"{split}.csv", (WRITTEN_AT, WRITTEN_AT))
    write_atomic(work / "listing.csv", listing_bytes(list_files(work, lambda path: path.endswith(".csv"))))


def _tasks(split: str, videos: int, params: ShapesParams, key: str, seed: int) -> Iterator[Task]:
    """As many videos of every class as of every other, up to one."""
    kinds = SETS[params.classes]
    for number in range(videos):
        digest = hashlib.sha256(f"{seed}/{key}/{split}/{number}".encode()).digest()
        start = digest[0]
        yield Task(
            kind=kinds[number % len(kinds)].name,
            split=split,
            id=base64.urlsafe_b64encode(digest[1:9]).decode()[:11],  # as YouTube's: 11 letters, digits, - and _
            start=start,
            end=start + -(-params.frames // params.fps),
            seed=int.from_bytes(digest[9:17]),
        )


def _render_one(root: Path, params: ShapesParams, task: Task) -> None:
    video = render(KINDS[task.kind], params.frames, params.size, np.random.default_rng(task.seed))
    encode(video, root / task.path, params.fps)


def encode(video: np.ndarray, path: Path, fps: int) -> None:
    """Write uint8 [T, H, W, 3] as an H.264 MP4, BT.601 4:2:0: the same bytes for the same frames.

    Raises RuntimeError with ffmpeg's words where it fails.
    """
    size = f"{video.shape[2]}x{video.shape[1]}"
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=fps, threads=1, loglevel="error")
    output = source.output(
        f"file:{path.absolute()}",
        **{"vcodec": "libx264", "preset": "veryfast", "crf": 16, "pix_fmt": "yuv420p", "threads": 1},
        **{"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1},
        **{"x264-params": "mbtree=0"},  # which takes into account what its memory held before
    )
    command = output.overwrite_output().compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    # As Python ignores SIGXFSZ, so does ffmpeg then: it tells of a file that may not grow.
    run = {"input": video.tobytes(), "capture_output": True, "restore_signals": False}
    done = subprocess.run(command, **run, check=False)
    if done.returncode:
        raise RuntimeError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")
    os.utime(path, (WRITTEN_AT, WRITTEN_AT))

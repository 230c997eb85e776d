"""The worker processes of decode. Each names the video that it begins: a crash or a hang costs that one alone."""

import json
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.hierarchy import f_s, f_t
from pipeline.data.store import StoreWriter, frame_bounds
from pipeline.data.video import Crop, Engine, VideoError, decode_video, frame_limit
from pipeline.params import Params
from pipeline.paths import write_atomic
from pipeline.progress import progress
from pipeline.tether import die_with_parent

log = logging.getLogger(__name__)

GRACE = 10.0  # seconds over decode.timeout after which a worker that answers nothing is killed
ATTEMPTS = 3  # at a shard whose worker dies while it decodes nothing


@dataclass(frozen=True)
class Settings:
    """What a worker knows."""

    root: Path
    work: Path
    videos: int
    shard_videos: int
    views: dict[int, tuple[int, int]]  # level: frames at most, pixels
    factors: tuple[int, ...]  # K_T between successive views, lowest first
    frame_step: int
    crop: Crop
    max_frames: int | None
    engine: Engine
    timeout: float

    @classmethod
    def of(cls, params: Params, root: Path, work: Path, videos: int) -> "Settings":
        """From the parameters, for so many videos under `root`, working in the folder `work`."""
        factors = tuple(params.time_factor(level) for level in range(2, params.n_levels + 1))
        top = params.view(params.n_levels).size
        bounds = frame_bounds(params.decode.max_frames or frame_limit(top), factors)
        return cls(
            root=root,
            work=work,
            videos=videos,
            shard_videos=params.decode.shard_videos,
            views={level: (frames, params.view(level).size) for level, frames in bounds.items()},
            factors=factors,
            frame_step=params.decode.frame_step,
            crop=params.decode.crop,
            max_frames=params.decode.max_frames,
            engine=params.decode.engine,
            timeout=float(params.decode.timeout),
        )

    def writer(self) -> StoreWriter:
        """The store in the making."""
        return StoreWriter(self.work / "pyramid", views=self.views, videos=self.videos, shard_videos=self.shard_videos)


@dataclass(frozen=True)
class Shard:
    """A task: the videos of one shard file."""

    first_row: int
    paths: tuple[str, ...]
    given_up: dict[str, str] = field(default_factory=dict)  # path: reason; these crashed or hung a worker
    attempts: int = 0


def facts_file(work: Path, first_row: int) -> Path:
    """Where a finished shard's facts lie: a JSON list with an object a video."""
    return work / "facts" / f"{first_row:08d}.json"


def views_of(top: np.ndarray, sizes: Sequence[int], factors: Sequence[int]) -> list[np.ndarray]:
    """All views of a video, lowest first: x^l = f_s(f_t(x^{l+1})), each from the stored uint8 frames above it.

    top: uint8 [T, H, W, 3] of the highest view. sizes: H = W of every view, lowest first.
    """
    views = [top]
    for size, factor in zip(reversed(sizes[:-1]), reversed(factors), strict=True):
        above = torch.from_numpy(views[0]).permute(0, 3, 1, 2)[None]
        views.insert(0, f_s(f_t(above, factor), size)[0].permute(0, 2, 3, 1).contiguous().numpy())
    return views


def decode_shards(shards: Sequence[Shard], settings: Settings, workers: int) -> None:
    """Decode every shard that is not done yet, in at most `workers` processes.

    A video at which a worker crashes or outlives its deadline is given up with that reason; the rest of its shard is
    decoded again by a new worker.
    """
    writer = settings.writer()
    todo = deque(shard for shard in shards if not writer.done(shard.first_row))
    videos = sum(len(shard.paths) for shard in shards)
    finished = videos - sum(len(shard.paths) for shard in todo)
    if finished:
        log.info("%d of %d videos were decoded by an earlier run", finished, videos)
    pool = [_Worker(settings) for _ in range(min(workers, len(todo)))]
    try:
        with progress(total=videos, desc="decode", unit="videos") as bar:
            bar.update(finished)
            while todo or any(worker.shard for worker in pool):
                for place, worker in enumerate(pool):
                    if worker.shard is None and todo:
                        worker.begin(todo.popleft())
                    again = worker.lost()
                    if again is not None:
                        bar.update(-worker.counted)
                        todo.appendleft(again)
                        worker.end()
                        pool[place] = _Worker(settings)
                ready = wait([worker.channel for worker in pool if worker.shard], timeout=0.5)
                for worker in pool:
                    if worker.channel in ready:
                        bar.update(worker.hear())
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, settings: Settings):
        context = multiprocessing.get_context("forkserver")  # imports once, also for those that replace a crashed one
        context.set_forkserver_preload([__name__])
        self.channel, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._timeout = settings.timeout + GRACE
        self._video: str | None = None
        self._since = 0.0
        self._gone = False
        self.shard: Shard | None = None
        self.counted = 0  # videos of the shard that the progress bar has counted

    def begin(self, shard: Shard) -> None:
        self.shard, self.counted, self._video = shard, 0, None
        self._gone = self._gone or not _send(self.channel, shard)

    def hear(self) -> int:
        """Take one message; returns how many videos it finishes."""
        try:
            message = self.channel.recv()
        except (EOFError, ConnectionError):
            self._gone = True
            return 0
        if message is None:
            self.shard = None
            return 0
        before, self._video, self._since = self._video, message or None, time.monotonic()
        self.counted += before is not None
        return int(before is not None)

    def lost(self) -> Shard | None:
        """The shard to be done again where the worker is dead or hangs, with the guilty video given up."""
        if self.shard is None:
            return None
        hangs = self._video is not None and time.monotonic() > self._since + self._timeout
        if not self._gone and not hangs:
            return None
        if hangs:
            return self._without("the decoder hung")
        self._process.join()
        if self._video is not None:
            return self._without(f"the decoder crashed (exit code {self._process.exitcode})")
        if self.shard.attempts + 1 == ATTEMPTS:
            raise RuntimeError(
                f"a decode worker died {ATTEMPTS} times (exit code {self._process.exitcode}) at the shard of "
                f"{self.shard.paths[0]}, but not while it decoded; is there memory for decode.shard_videos of them?"
            )
        return replace(self.shard, attempts=self.shard.attempts + 1)

    def _without(self, reason: str) -> Shard:
        assert self.shard is not None
        assert self._video is not None
        log.warning("%s: %s", self._video, reason)
        return replace(self.shard, given_up={**self.shard.given_up, self._video: reason})

    def end(self) -> None:
        self.channel.close()
        self._process.kill()
        self._process.join()


def _send(channel: Connection, message: Any) -> bool:
    try:
        channel.send(message)
    except ConnectionError:
        return False
    return True


def _work(channel: Connection, settings: Settings) -> None:
    """A worker's life: a shard comes; "path" goes when a video is begun, "" after the last, None after the shard."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    torch.set_num_threads(1)
    writer = settings.writer()
    with suppress(EOFError, ConnectionError):  # the parent is gone, or has no more to do
        while True:
            _decode_shard(channel.recv(), channel, writer, settings)


def _decode_shard(shard: Shard, channel: Connection, writer: StoreWriter, settings: Settings) -> None:
    views: list[list[np.ndarray]] = []
    facts = []
    for row, path in enumerate(shard.paths, start=shard.first_row):
        channel.send(path)
        views_of_video, facts_of_video = _decode_one(path, shard.given_up.get(path), settings)
        views.append(views_of_video)
        facts.append({"row": row, **facts_of_video})
    channel.send("")
    write_atomic(facts_file(settings.work, shard.first_row), json.dumps(facts))
    for place, level in enumerate(sorted(settings.views)):
        writer.write(level, shard.first_row, [of_video[place] for of_video in views])
    channel.send(None)


def _decode_one(path: str, given_up: str | None, settings: Settings) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The views of a video and its facts; no frames and a reason where there are none."""
    sizes = [size for _, (_, size) in sorted(settings.views.items())]
    reason = given_up
    if reason is None:
        try:
            top, facts = decode_video(
                settings.root / path,
                frame_step=settings.frame_step,
                size=sizes[-1],
                crop=settings.crop,
                max_frames=settings.max_frames,
                engine=settings.engine,
                timeout=settings.timeout,
            )
            return views_of(top, sizes, settings.factors), {"n_frames": len(top), **asdict(facts), "reason": ""}
        except VideoError as error:
            reason = str(error)
    return [np.zeros((0, size, size, 3), np.uint8) for size in sizes], {"n_frames": 0, "reason": reason}

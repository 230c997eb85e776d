"""The worker processes of decode. Each names the video that it begins: a crash or a hang costs that one alone."""

import json
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from pipeline.data.pyramid import Pyramid
from pipeline.data.store.codecs import Codec
from pipeline.data.store.writer import StoreWriter, frame_bounds
from pipeline.data.video.frames import MAX_FRAMES, Crop, Engine, decode_video
from pipeline.data.video.source import TooLate, Unreachable, VideoError
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import write_atomic
from pipeline.progress import progress
from pipeline.system.tether import die_with_parent

log = logging.getLogger(__name__)

GRACE = 10.0  # seconds over decode.timeout after which a worker that answers nothing is killed
ATTEMPTS = 3  # at a shard whose worker dies while it decodes nothing
KEPT, SHORT, FAILED, STOPPED = (
    "kept",
    "short",
    "failed",
    "stopped",
)  # what became of a video; stopped: by us, or a crash


@dataclass(frozen=True)
class Settings:
    """What a worker knows."""

    root: Path
    work: Path
    videos: int
    shard_videos: int
    views: dict[int, tuple[int, int]]  # level: frames at most, pixels
    factors: dict[int, int]  # level: K_T from the view below
    frame_step: int
    crop: Crop
    max_frames: int | None
    min_frames: int
    engine: Engine
    codec: Codec
    url: str | None
    timeout: float

    @classmethod
    def of(cls, params: Params, root: Path, work: Path, videos: int) -> "Settings":
        """From the parameters, for so many videos under `root`, working in the folder `work`.

        A remote store's arrays lie in a folder of decode.store that bears the name of `work`, a hash of all inputs.
        """
        chosen = params.decode
        bounds = frame_bounds(chosen.max_frames or MAX_FRAMES, params.factors)
        return cls(
            root=root,
            work=work,
            videos=videos,
            shard_videos=chosen.shard_videos,
            views={level: (frames, params.view(level).size) for level, frames in bounds.items()},
            factors=dict(enumerate(params.factors, start=2)),
            frame_step=chosen.frame_step,
            crop=chosen.crop,
            max_frames=chosen.max_frames,
            min_frames=chosen.min_frames,
            engine=chosen.engine,
            codec=Codec(chosen.codec, chosen.jpeg_quality) if chosen.codec == "jpeg" else Codec(chosen.codec),
            url=None if chosen.store is None else f"{chosen.store.rstrip('/')}/{work.name}",
            timeout=float(chosen.timeout),
        )

    def writer(self) -> StoreWriter:
        """The store in the making. Raises UserError where the one at a URL cannot be made or found."""
        with self.reaching():
            return StoreWriter(
                self.work / "pyramid",
                views=self.views,
                videos=self.videos,
                shard_videos=self.shard_videos,
                codec=self.codec,
                url=self.url,
            )

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """UserError for what goes wrong at the store's URL; a disk of ours keeps its OSError."""
        try:
            yield
        except OSError as error:
            if self.url is None:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"decode.store: {self.url.rpartition('/')[0]} cannot be written: {reason}") from error


@dataclass(frozen=True)
class Shard:
    """A task: the videos of one shard file."""

    first_row: int
    paths: tuple[str, ...]
    given_up: dict[str, str] = field(default_factory=dict)  # path: reason; these crashed or hung a worker
    attempts: int = 0


@dataclass(frozen=True)
class Unwritable:
    """A worker's last message: the store cannot be written."""

    reason: str


def facts_file(work: Path, first_row: int) -> Path:
    """Where a finished shard's facts lie: a JSON list with an object a video."""
    return work / "facts" / f"{first_row:08d}.json"


def decode_shards(shards: Sequence[Shard], settings: Settings, workers: int) -> None:
    """Decode every shard that is not done yet, in at most `workers` processes.

    A video at which a worker crashes or outlives its deadline is given up with that reason; the rest of its shard is
    decoded again by a new worker. Raises UserError where the store cannot be written.
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
        self._where = settings.url or settings.work
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
        if isinstance(message, Unwritable):
            raise UserError(f"{self._where} cannot be written: {message.reason}; mend it, and the next run goes on")
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
            code = self._process.exitcode
            hint = "; is there memory for one more of them?" if code == -signal.SIGKILL else ""
            raise RuntimeError(
                f"a decode worker died {ATTEMPTS} times (exit code {code}) at the shard of {self.shard.paths[0]}, but "
                f"not while it decoded{hint}"
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
    writer = None
    with suppress(EOFError, ConnectionError):  # the parent is gone, or has no more to do
        while True:
            shard = channel.recv()
            try:
                writer = writer or settings.writer()
                _decode_shard(shard, channel, writer, settings)
            except _ParentGone:
                return
            except OSError as error:  # of writing: a video's own are VideoErrors. A full disk must not cost videos.
                channel.send(Unwritable(str(error.strerror or error)))
                return
            except UserError as error:
                channel.send(Unwritable(str(error.__cause__ or error)))
                return


def _decode_shard(shard: Shard, channel: Connection, writer: StoreWriter, settings: Settings) -> None:
    facts = []
    with writer.shard(shard.first_row) as files:
        for place, path in enumerate(shard.paths):
            _tell(channel, path)
            pyramid = Pyramid(files, place, settings.factors)
            facts.append(
                {"row": shard.first_row + place, **decode_one(path, shard.given_up.get(path), pyramid, settings)}
            )
        _tell(channel, "")
        write_atomic(facts_file(settings.work, shard.first_row), json.dumps(facts))
    _tell(channel, None)


class _ParentGone(Exception):
    """Nobody hears this worker any more."""


def _tell(channel: Connection, message: str | None) -> None:
    if not _send(channel, message):
        raise _ParentGone


def decode_one(path: str, given_up: str | None, pyramid: Pyramid, settings: Settings) -> dict[str, Any]:
    """Decode a video into a pyramid. Returns its facts: n_frames, 0 where it is left out, for the reason given."""
    reason, facts, status = given_up, {}, STOPPED
    if reason is None:
        try:
            found = decode_video(
                settings.root / path,
                pyramid,
                frame_step=settings.frame_step,
                size=settings.views[max(settings.views)][1],
                crop=settings.crop,
                max_frames=settings.max_frames,
                engine=settings.engine,
                timeout=settings.timeout,
            )
            frames, facts = pyramid.end(), asdict(found)
            if frames >= settings.min_frames:
                return {"n_frames": frames, **facts, "status": KEPT, "reason": ""}
            reason, status = f"{frames} frames, fewer than decode.min_frames, {settings.min_frames}", SHORT
        except VideoError as error:
            reason, status = str(error), STOPPED if isinstance(error, (TooLate, Unreachable)) else FAILED
    pyramid.clear()
    return {"n_frames": 0, **facts, "status": status, "reason": reason}

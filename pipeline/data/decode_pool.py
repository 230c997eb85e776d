"""The worker processes of decode. Each names the video that it begins: a crash or a hang costs that one alone."""

import logging
import math
import multiprocessing
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.data.pyramid import Pyramid
from pipeline.data.store.codecs import Codec
from pipeline.data.store.shard import ShardWriter
from pipeline.data.store.writer import StoreWriter, frame_bounds
from pipeline.data.video.errors import TooLate, Unreachable, VideoError
from pipeline.data.video.frames import MAX_FRAMES, decode_video
from pipeline.data.video.source import MEMORY_BYTES
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.system.tether import die_with_parent

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0  # over decode.timeout, after which a worker that answers nothing is killed
# What became of a video; stopped: by us, or a crash.
KEPT, SHORT, FAILED, STOPPED = "kept", "short", "failed", "stopped"


@dataclass(frozen=True)
class Decoding:
    """What a worker knows: so many videos under `root` become a store in the folder `work`."""

    params: Params
    root: Path
    work: Path
    videos: int

    def writer(self) -> StoreWriter:
        """The store in the making. Raises UserError where the one at a URL cannot be made or found.

        A remote store's arrays lie in a folder of decode.store that bears the name of `work`, a hash of all inputs.
        """
        chosen = self.params.decode
        return StoreWriter(
            self.work / "pyramid",
            views=views(self.params),
            videos=self.videos,
            shard_videos=chosen.shard_videos,
            codec=Codec.of(chosen),
            url=None if chosen.store is None else f"{chosen.store.rstrip('/')}/{self.work.name}",
        )


def views(params: Params) -> dict[int, tuple[int, int]]:
    """(frames at most, pixels) by level, of the pyramid that the parameters make."""
    bounds = frame_bounds(params.decode.max_frames or MAX_FRAMES, params.factors)
    return {level: (frames, params.view(level).size) for level, frames in bounds.items()}


def made_with(params: Params) -> dict[str, Any]:
    """The parameters that decide a pyramid's frames, as its attributes have them."""
    chosen = asdict(params.decode)
    for elsewhere in ("max_failed", "timeout", "store"):
        del chosen[elsewhere]
    return {
        **chosen,
        "image_rate": params.data.image_rate,
        "views": {str(level): asdict(view) for level, view in params.views.items()},
    }


@dataclass(frozen=True)
class Shard:
    """A task: the videos of one shard file."""

    first_row: int
    paths: tuple[str, ...]
    given_up: dict[str, str] = field(default_factory=dict)  # path: reason; these crashed or hung a worker


def decode_shards(shards: Sequence[Shard], decoding: Decoding, workers: int) -> None:
    """Decode every shard that is not done yet, in at most `workers` processes.

    A video at which a worker crashes or outlives its deadline is given up with that reason; the rest of its shard is
    decoded again by a new worker. Raises UserError where the store cannot be written, and RuntimeError where a worker
    dies while it decodes nothing.
    """
    writer = decoding.writer()
    todo = deque(shard for shard in shards if not writer.done(shard.first_row))
    videos = sum(len(shard.paths) for shard in shards)
    finished = videos - sum(len(shard.paths) for shard in todo)
    if finished:
        log.info("%d of %d videos were decoded by an earlier run", finished, videos)
    pool = [_Worker(decoding) for _ in range(min(workers, len(todo)))]
    try:
        with progress(total=videos, desc="decode", unit="videos") as bar:
            bar.update(finished)
            while todo or any(worker.shard for worker in pool):
                for worker in pool:
                    if worker.shard is None and todo:
                        worker.begin(todo.popleft())
                ready = wait([worker.channel for worker in pool if worker.shard], timeout=0.5)
                for place, worker in enumerate(pool):
                    if worker.channel in ready:
                        bar.update(worker.hear())
                    if worker.gone or worker.hangs:
                        worker.end()
                        bar.update(-worker.counted)
                        todo.appendleft(worker.left())
                        pool[place] = _Worker(decoding)
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, decoding: Decoding):
        context = multiprocessing.get_context("forkserver")  # imports once, also for those that replace a crashed one
        context.set_forkserver_preload([__name__])
        self.channel, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, decoding), daemon=True)
        self._process.start()
        theirs.close()
        self._timeout = decoding.params.decode.timeout + GRACE_SECONDS
        self._video, self._deadline = "", math.inf  # at hand; in time.monotonic()'s seconds
        self.shard: Shard | None = None
        self.gone = False
        self.counted = 0  # videos of the shard that the progress bar has counted

    def begin(self, shard: Shard) -> None:
        self.shard, self.counted = shard, 0
        with suppress(ConnectionError):  # `hear` finds that it is gone
            self.channel.send(shard)

    @property
    def hangs(self) -> bool:
        return time.monotonic() > self._deadline

    def hear(self) -> int:
        """Take one message; returns how many videos it finishes."""
        try:
            message = self.channel.recv()
        except (EOFError, ConnectionError):
            self.gone = True
            return 0
        if isinstance(message, UserError):
            raise UserError(f"{message}; mend it, and the next run goes on")
        if message is None:
            self.shard = None
            return 0
        finished = int(self._video != "")
        self._video, self._deadline = message, time.monotonic() + self._timeout if message else math.inf
        self.counted += finished
        return finished

    def end(self) -> None:
        self.channel.close()
        if not self.gone:
            self._process.kill()
        self._process.join()

    def left(self) -> Shard:
        """The shard of a worker that has ended, with the video given up at which it crashed or hung."""
        assert self.shard is not None
        code = self._process.exitcode
        if not self._video:
            hint = "; is there memory for one more of them?" if code == -signal.SIGKILL else ""
            raise RuntimeError(
                f"a decode worker died (exit code {code}) at the shard of {self.shard.paths[0]}, but not while it "
                f"decoded{hint}"
            )
        reason = f"the decoder crashed (exit code {code})" if self.gone else "the decoder hung"
        log.warning("%s: %s", self._video, reason)
        return replace(self.shard, given_up={**self.shard.given_up, self._video: reason})


def _work(channel: Connection, decoding: Decoding) -> None:
    """A worker's life: a shard comes; "path" goes when a video is begun, "" after the last, None after the shard.

    A UserError, where the store cannot be written, is its last message.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    torch.set_num_threads(1)
    bound_memory()
    with suppress(EOFError, ConnectionError):  # the parent is gone, or has no more to do; a store's are UserErrors
        try:
            writer = decoding.writer()
            while True:
                shard: Shard = channel.recv()
                with writer.shard(shard.first_row) as files:
                    for place, path in enumerate(shard.paths):
                        channel.send(path)
                        fact = decode_one(decoding, path, files, place, shard.given_up.get(path))
                        files.facts.append({"row": shard.first_row + place, **fact})
                    channel.send("")
                channel.send(None)
        except UserError as error:
            channel.send(error)
        except ConnectionError:
            raise
        except OSError as error:  # of writing: a video's own are VideoErrors. A full disk must not cost videos.
            channel.send(UserError(f"{decoding.work} cannot be written: {error.strerror or error}"))


def bound_memory() -> None:
    """Leave this process so much more address space: a header of a few bytes may ask for all memory that there is."""
    if sys.platform == "linux":
        most = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def decode_one(
    decoding: Decoding, path: str, shard: ShardWriter, row: int, given_up: str | None = None
) -> dict[str, Any]:
    """Decode a video into a row of a shard. Returns its facts: n_frames, 0 where it is left out for the reason."""
    params, chosen = decoding.params, decoding.params.decode
    pyramid = Pyramid(shard, row, params.factors)
    reason, facts, status = given_up, {}, STOPPED
    if reason is None:
        try:
            found = decode_video(
                decoding.root / path,
                pyramid,
                frame_step=chosen.frame_step,
                fps=chosen.fps,
                size=params.view(params.n_levels).size,
                crop=chosen.crop,
                hdr=chosen.hdr,
                max_frames=chosen.max_frames,
                engine=chosen.engine,
                timeout=chosen.timeout,
                image_rate=params.data.image_rate,
            )
            frames, facts = pyramid.end(), asdict(found)
            if frames >= chosen.min_frames:
                return {"n_frames": frames, **facts, "status": KEPT, "reason": ""}
            reason, status = f"{frames} frames, fewer than decode.min_frames, {chosen.min_frames}", SHORT
        except VideoError as error:
            reason, status = str(error), STOPPED if isinstance(error, (TooLate, Unreachable)) else FAILED
    pyramid.clear()
    return {"n_frames": 0, **facts, "status": status, "reason": reason}

"""Training one level: iterations of D and G updates, checkpoints, and going on after a kill."""

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.params import TrainingParams
from pipeline.progress import progress
from pipeline.training import checkpoint
from pipeline.training.batches import Batches, Clips
from pipeline.training.distributed import Workers
from pipeline.training.step import Metrics, Networks

log = logging.getLogger(__name__)

History = list[dict[str, float | int]]  # a row every `log_every` iterations: step, and means since the row before
OnLog = Callable[[dict[str, float], int], Any]  # a row's means, and its step


def train(
    networks: Networks,
    batches: Batches,
    params: TrainingParams,
    workers: Workers,
    folder: Path,
    on_log: OnLog | None = None,
) -> History:
    """Train a level to `params.iterations`, from the newest checkpoint in `folder` where there is one.

    On a CPU the same bytes come out whether or not it was interrupted. On SIGTERM it writes a checkpoint after the
    iteration at hand and exits with 143. Raises UserError when a loss is no number any more.
    """
    restored = checkpoint.load(folder, networks)
    start, extra = restored if restored else (0, {"history": [], "sums": {}})
    history: History = extra["history"]
    means = _Means(extra["sums"])
    level = batches.config.level
    log.info("level %d: %s", level, f"going on from iteration {start}" if start else "training from the start")

    per_iteration = params.discriminator_steps + 1
    plan = _clips(batches, start * per_iteration, params.iterations * per_iteration, per_iteration, params, workers)
    bar = progress(total=params.iterations, desc=f"train level {level}", unit="it")
    bar.update(start)
    began, done = time.monotonic(), 0
    with _termination() as terminated:
        for step in range(start + 1, params.iterations + 1):
            for _ in range(params.discriminator_steps):
                means.add(networks.discriminator_update(real=next(plan), fake=next(plan)))
            means.add(networks.generator_update(fake=next(plan)))
            bar.update(1)
            done += 1
            if step % params.log_every == 0 or step == params.iterations:
                row = means.take(workers)
                _check(row, step, level)
                history.append({"step": step, **row})
                bar.set_postfix(D=f"{row['loss_discriminator']:.2f}", G=f"{row['loss_generator']:.2f}")
                if on_log is not None:
                    speed = done * params.batch / (time.monotonic() - began)
                    on_log({**row, "clips_per_second": speed}, step)
            stop = workers.any(terminated())
            if step % params.checkpoint_every == 0 or step == params.iterations or stop:
                sums = means.shared(workers)
                if workers.rank == 0:
                    checkpoint.save(folder, step, networks, {"history": history, "sums": sums})
            if stop:
                log.warning(
                    "level %d: terminated; iteration %d is saved, the same command goes on from it", level, step
                )
                raise SystemExit(128 + signal.SIGTERM)
    bar.close()
    return history


class _Means:
    """Means of metrics since the last row, over all workers. Their sums are plain numbers in a checkpoint."""

    def __init__(self, sums: dict[str, list[float]]) -> None:
        self._sums = {name: (torch.tensor(total, dtype=torch.float64), count) for name, (total, count) in sums.items()}

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value.double(), count + 1)  # on its device: no waiting for a GPU

    def shared(self, workers: Workers) -> dict[str, list[float]]:
        """The sums as their means over all workers, and from here on the same on each."""
        if not self._sums:
            return {}
        totals = workers.mean(torch.stack([total.to(workers.device) for total, _ in self._sums.values()]))
        counts = [count for _, count in self._sums.values()]
        self._sums = dict(zip(self._sums, zip(totals, counts, strict=True), strict=True))
        return {name: [float(total), float(count)] for name, (total, count) in self._sums.items()}

    def take(self, workers: Workers) -> dict[str, float]:
        row = {name: total / count for name, (total, count) in self.shared(workers).items()}
        self._sums.clear()
        return row


def _clips(
    batches: Batches, first: int, end: int, per_iteration: int, params: TrainingParams, workers: Workers
) -> Iterator[Clips]:
    """The clips of every update, read ahead: real and fake ones for D's updates, fake ones for G's, the last."""
    positions = workers.positions(params.batch)
    wanted = (
        (make, update)
        for update in range(first, end)
        for make in (batches.real_clips, batches.fake_clips)
        if make == batches.fake_clips or update % per_iteration < per_iteration - 1
    )

    with ThreadPoolExecutor(1) as ahead:
        pending: deque[Future[Clips]] = deque()
        for make, update in wanted:
            pending.append(ahead.submit(make, update, positions))
            if len(pending) > 2:
                yield pending.popleft().result().to(workers.device)
        while pending:
            yield pending.popleft().result().to(workers.device)


def _check(row: dict[str, float], step: int, level: int) -> None:
    if not all(math.isfinite(value) for value in row.values()):
        raise UserError(
            f"level {level}: a loss is no number after iteration {step}: training diverged; "
            f"lower levels.{level}.training.lr_generator and lr_discriminator"
        )


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGTERM came; the signal no longer ends the process at once."""
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)

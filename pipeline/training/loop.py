"""Training one level: iterations of D and G updates, what is shown and measured between them, checkpoints."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from models.generator import Generator
from pipeline.params import TrainingParams
from pipeline.progress import progress
from pipeline.training import checkpoint
from pipeline.training.average import Average
from pipeline.training.batches import Batches, Clips
from pipeline.training.early_stopping import EarlyStopper, Measure
from pipeline.training.pictures import Pictures
from pipeline.training.step import Networks
from pipeline.training.termination import EXIT, held
from pipeline.training.watch import History, Means, check, memory_gib, sigmas
from pipeline.workers import Workers

log = logging.getLogger(__name__)

OnLog = Callable[[dict[str, float], int], Any]  # numbers, and their iteration
OnPicture = Callable[[Path], Any]  # a file
SAVE_SECONDS = 300.0  # of training that a crash, or an iteration too long to wait for, may cost


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What comes of training a level."""

    generator: Generator  # to publish: the last one, its average, or the best of those measured
    iteration: int  # whose generator it is
    history: History  # a row every `log_every` iterations: step, means since the row before, singular values


def train(
    networks: Networks,
    batches: Batches,
    params: TrainingParams,
    workers: Workers,
    folder: Path,
    on_log: OnLog | None = None,
    on_picture: OnPicture | None = None,
    measure: Measure | None = None,
) -> Trained:
    """Train a level to `params.iterations`, from the newest checkpoint in `folder` where there is one.

    on_log, on_picture: for rank 0 to show what comes up; on_log is told speed and memory beside a row.
    measure: the metric of `params.early_stopping`.

    On a CPU the same bytes come out whether or not it was interrupted, and whether or not pictures are made or a metric
    is measured. On SIGTERM or SIGINT it writes a checkpoint after the iteration at hand and exits with 143. Raises
    UserError when training has diverged.
    """
    training = _Training(networks, batches, params, workers, folder, on_log, on_picture, measure)
    with held(training.kept) as terminated:
        training.run(terminated)
    return training.result()


class _Training:
    """The state of a run between two of its iterations."""

    def __init__(
        self,
        networks: Networks,
        batches: Batches,
        params: TrainingParams,
        workers: Workers,
        folder: Path,
        on_log: OnLog | None,
        on_picture: OnPicture | None,
        measure: Measure | None,
    ) -> None:
        assert (measure is None) == (params.early_stopping is None)
        self.networks, self.batches, self.params, self.workers, self.folder = networks, batches, params, workers, folder
        self.on_log, self.on_picture, self.measure = on_log, on_picture, measure
        self.level = batches.config.level
        self.frames = params.batch * batches.window * batches.config.time_factor  # of the clips of a batch
        self.average = Average(networks.generator, params.average) if params.average is not None else None
        self.shown = networks.generator if self.average is None else self.average.generator
        names = ("generator", "discriminators", "optimizer_g", "optimizer_d")
        self.parts = {name: getattr(networks, name) for name in names}
        if self.average is not None:
            self.parts["average"] = self.average.generator
        self.stopper = EarlyStopper(params.early_stopping) if params.early_stopping else None
        if self.stopper is not None:
            self.parts["early_stopping"] = self.stopper
        restored = checkpoint.load(folder, self.parts, workers)
        self.step, extra = restored if restored else (0, {"history": [], "sums": {}})
        self.begun = self.saved = self.step  # iterations; between two of them `begun` is `step`
        self.saved_at = time.monotonic()
        self.history: History = extra["history"]
        self.means = Means(extra["sums"])
        self.pictures = Pictures(batches, params.batch, workers, folder / "pictures") if params.samples_every else None

    def run(self, terminated: Callable[[], bool]) -> None:
        """All iterations that are left, or as many as early stopping allows."""
        going_on = f"going on from iteration {self.step}" if self.step else "training from the start"
        log.info("level %d: %s", self.level, going_on)
        params = self.params
        plan = _clips(self.batches, self.step, params, self.workers)
        bar = progress(total=params.iterations, desc=f"train level {self.level}", unit="it")
        bar.update(self.step)
        since, began = self.step, time.monotonic()
        while True:
            # What looks at G alone comes after the iteration's checkpoint: interrupted, it is done again.
            if self._look(terminated):
                since, began = self.step, time.monotonic()
            if self.step == params.iterations or (self.stopper is not None and self.stopper.over):
                break
            self._iterate(plan)
            bar.update(1)
            if self.step % params.log_every == 0 or self.step == params.iterations:
                row = self._row()
                speed = (self.step - since) * self.frames / (time.monotonic() - began)
                since, began = self.step, time.monotonic()
                d, g = f"{row['loss_discriminator']:.2f}", f"{row['loss_generator']:.2f}"
                bar.set_postfix({"D": d, "G": g, "frames/s": f"{speed:.3g}"})
                seen = {"frames_per_second": speed, "memory_gib": memory_gib(self.workers.device)}
                self._log({**row, **seen})
            if self.workers.any(terminated()):
                self._stop()
            measured = self.stopper is not None and self._due(self.stopper.every)  # which takes long, and may end it
            late = self.workers.any(time.monotonic() > self.saved_at + SAVE_SECONDS)
            if self.step % params.checkpoint_every == 0 or self.step == params.iterations or measured or late:
                self._save()
        bar.close()

    def kept(self) -> str:
        """What is saved and what is not."""
        if self.workers.rank:
            return f"level {self.level}: worker 0 says what is saved"
        saved = (
            f"iteration {self.saved} is saved, the same command goes on from it" if self.saved else "nothing is saved"
        )
        lost = range(self.saved + 1, self.begun + 1)
        if not lost:
            return f"level {self.level}: {saved}"
        which = f"iterations {lost[0]} to {lost[-1]} are" if len(lost) > 1 else f"iteration {lost[0]} is"
        return f"level {self.level}: {saved}; {which} lost"

    def result(self) -> Trained:
        """What is published: the generator as it is now, or the best one."""
        if self.stopper is None:
            return Trained(generator=self.shown, iteration=self.step, history=self.history)
        best = self.stopper
        best.restore(self.shown)
        log.info("level %d: the generator of iteration %d is the best, at %s", self.level, best.iteration, best.best)
        return Trained(generator=self.shown, iteration=best.iteration, history=self.history)

    def _iterate(self, plan: Iterator[Clips]) -> None:
        self.begun = self.step + 1
        for _ in range(self.params.discriminator_steps):
            self.means.add(self.networks.discriminator_update(real=next(plan), fake=next(plan)))
        self.means.add(self.networks.generator_update(fake=next(plan)))
        self.step += 1
        if self.average is not None:
            self.average.update(self.networks.generator, self.step)

    def _row(self) -> dict[str, float]:
        row = {**self.means.take(self.workers), **sigmas(self.networks)}
        self.history.append({"step": self.step, **row})
        check(self.history, self.level)
        return row

    def _look(self, terminated: Callable[[], bool]) -> bool:
        """Make pictures and measure where it is time to. Whether any of it was."""
        looked = False
        if self.pictures is not None and self._due(self.params.samples_every):
            looked = True
            self._show(self.pictures, terminated)
        if self.stopper is not None and self.measure is not None and self._due(self.stopper.every):
            looked = True
            value = self.measure(self.shown, lambda: self.workers.any(terminated()))
            if value is None:
                self._stop()
            else:
                self.stopper.note(value, self.step, self.shown)
                if not self.history or self.history[-1]["step"] != self.step:
                    self.history.append({"step": self.step})
                self.history[-1][self.measure.name] = value
                self._log({self.measure.name: value})
        return looked

    def _show(self, pictures: Pictures, terminated: Callable[[], bool]) -> None:
        try:
            files = pictures.make(self.shown, self.step)
        except RuntimeError as error:
            time.sleep(1)  # a cluster's TERM goes to every process of a job, and may have reached ffmpeg first
            if not terminated():
                raise
            log.warning("no pictures of iteration %d: %s", self.step, error)
            return
        for file in files:
            if self.on_picture is not None:
                self.on_picture(file)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step > 0 and (self.step % every == 0 or self.step == self.params.iterations)

    def _log(self, numbers: dict[str, float]) -> None:
        if self.on_log is not None:
            self.on_log(numbers, self.step)

    def _save(self) -> None:
        kept = {"history": self.history, "sums": self.means.shared(self.workers)}
        if self.workers.rank == 0:
            checkpoint.save(self.folder, self.step, self.parts, kept)
        self.saved, self.saved_at = self.step, time.monotonic()

    def _stop(self) -> NoReturn:
        self._save()
        raise SystemExit(EXIT)


def _clips(batches: Batches, done: int, params: TrainingParams, workers: Workers) -> Iterator[Clips]:
    """The clips of every update after `done` iterations, read ahead: real and fake ones for D's, fake ones for G's."""
    per_iteration = params.discriminator_steps + 1
    positions = workers.positions(params.batch)
    wanted = (
        (make, update)
        for update in range(done * per_iteration, params.iterations * per_iteration)
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

"""Training one level: iterations of D and G updates, what is shown and measured between them, checkpoints."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.params import TrainingParams
from pipeline.progress import progress
from pipeline.training import checkpoint, start
from pipeline.training.batches import Batches, Iteration
from pipeline.training.measure import Best, WindowMeasure
from pipeline.training.pictures import make_pictures
from pipeline.training.step import Networks, follow
from pipeline.training.termination import EXIT, Termination
from pipeline.training.watch import History, Means, check, memory_gib, sigmas
from pipeline.workers import Workers

log = logging.getLogger(__name__)

OnLog = Callable[[dict[str, float], int], Any]  # numbers, and their iteration
OnPicture = Callable[[Path], Any]  # a file
SAVE_SECONDS = 300.0  # of training that a crash, or an iteration too long to wait for, may cost


class Training:
    """A level's training, from the newest checkpoint in `folder`, or `params.start`, to `params.iterations`.

    on_log, on_picture: for rank 0 to show what comes up; on_log is told speed and memory beside a row.
    measure: what `params.measure` asks for, where that is not null.

    generator: to publish, after `run`: the last one, its average, or the best of those measured.
    iteration: whose generator it is.
    start: what it began from, as plain values; None where that were random networks.
    history: a row every `log_every` iterations: step, means since the row before, singular values.

    On a CPU the same bytes come out whether or not it was interrupted, and whether or not pictures are made or a metric
    is measured. A signal lets it write a checkpoint after the iteration at hand. Raises UserError when training has
    diverged.
    """

    def __init__(
        self,
        networks: Networks,
        batches: Batches,
        params: TrainingParams,
        workers: Workers,
        folder: Path,
        termination: Termination,
        on_log: OnLog = lambda *_: None,
        on_picture: OnPicture = lambda _: None,
        measure: WindowMeasure | None = None,
    ) -> None:
        self.networks, self.batches, self.params, self.workers, self.folder = networks, batches, params, workers, folder
        self.termination, self.on_log, self.on_picture, self.measure = termination, on_log, on_picture, measure
        self.level = batches.config.level
        self.patience = measure and measure.params.patience  # None: no measurement ends it
        names = ("generator", "discriminators", "optimizer_g", "optimizer_d")
        self.best = Best()
        self.parts = {**{name: getattr(networks, name) for name in names}, "best": self.best}
        self.generator = networks.generator  # or its average: pictures and measurements are of it, too
        if params.average is not None:
            self.generator = self.parts["average"] = copy.deepcopy(networks.generator).requires_grad_(False)
        restored = checkpoint.load(folder, self.parts, workers)
        self.step, extra = restored or (0, {"history": [], "sums": {}, "start": self._begin()})
        self.start: dict[str, Any] | None = extra["start"]
        self.saved_at = self._saved()
        self.history: History = extra["history"]
        self.means = Means(workers, extra["sums"])
        self.timed = self.step, time.monotonic()  # the iteration after which the speed is taken, and when that was

    def _begin(self) -> dict[str, Any] | None:
        """Take the networks that `params.start` names: their ancestry, as plain values; None without."""
        if self.params.start is None:
            return None
        networks, ancestry = start.read(self.params.start, self.batches.config)
        for name, state in networks.items():
            self.parts[name].load_state_dict(state)
        self.generator.load_state_dict(networks["generator"])  # where it is an average
        of = f"{self.params.start.path}, of iteration {ancestry.iterations}"
        log.info("level %d: begins from %s%s", self.level, of, "" if "discriminators" in networks else ", with a new D")
        return asdict(ancestry)

    def run(self) -> None:
        """All iterations that are left, or as many as early stopping allows."""
        going_on = f"going on from iteration {self.step}" if self.step else "training from the start"
        log.info("level %d: %s", self.level, going_on)
        bar = progress(total=self.params.iterations, desc=f"train level {self.level}", unit="it")
        bar.update(self.step)
        with self.termination.held():
            self._look()  # at an iteration that was saved, and interrupted before it was looked at
            for it in self.batches.iterations(self.step, self.params, self.workers):
                if self.patience is not None and self.best.worse >= self.patience:
                    break
                self._iterate(it)
                bar.update(1)
                if self._due(self.params.log_every):
                    bar.set_postfix(self._row())
                stopped = self.workers.any(self.termination.came)
                late = self.workers.any(time.monotonic() > self.saved_at + SAVE_SECONDS)
                if stopped or late or self._looks() or self._due(self.params.checkpoint_every):
                    self._save()
                if stopped:
                    raise SystemExit(EXIT)
                self._look()
        bar.close()
        self.iteration = self.step
        if self.patience is not None:
            self.iteration, value = self.best.iteration, self.best.value
            self.generator.load_state_dict(self.best.weights)
            log.info("level %d: the generator of iteration %d is the best, at %s", self.level, self.iteration, value)

    def _iterate(self, it: Iteration) -> None:
        for real, fake in it.discriminator:
            self.means.add(self.networks.discriminator_update(real, fake))
        self.means.add(self.networks.generator_update(it.generator))
        self.step += 1
        if self.params.average is not None:
            follow(self.generator, self.networks.generator, self.params.average, self.step)

    def _row(self) -> dict[str, str]:
        """Add a row to the history, log it with speed and memory, and return what of it is worth a look."""
        row = {**self.means.take(), **sigmas(self.networks)}
        self.history.append({"step": self.step, **row})
        check(self.history, self.level)
        step, ended = self.timed
        self.timed = self.step, time.monotonic()
        speed = (self.step - step) * self.params.batch * self.batches.length / (self.timed[1] - ended)
        self.on_log({**row, "frames_per_second": speed, "memory_gib": memory_gib(self.workers.device)}, self.step)
        losses = {"D": row["loss_discriminator"], "G": row["loss_generator"]}
        return {**{name: f"{loss:.2f}" for name, loss in losses.items()}, "frames/s": f"{speed:.3g}"}

    def _looks(self) -> bool:
        """Whether pictures are due or a measurement, after a checkpoint: interrupted, they are made again."""
        return self._due(self.params.samples_every) or self._due(self.measure and self.measure.params.every)

    def _look(self) -> None:
        """Make pictures and measure where it is time to; a signal ends it at once."""
        if not self._looks():
            return
        with self.termination.held(False):
            if self._due(self.params.samples_every):
                name = self.folder / "pictures" / f"iteration-{self.step:08d}"
                for file in make_pictures(self.generator, self.batches, self.params.batch, self.workers, name):
                    self.on_picture(file)
            if self.measure and self._due(self.measure.params.every):
                numbers = self.measure(self.generator)
                if self.patience is not None:
                    self.best.note(numbers[self.measure.name], self.step, self.generator)
                if not self.history or self.history[-1]["step"] != self.step:
                    self.history.append({"step": self.step})
                self.history[-1] |= numbers
                self.on_log(numbers, self.step)
            self.workers.wait()  # while rank 0 writes: a signal finds all of them here, or none
        self.timed = self.step, time.monotonic()

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step > 0 and (self.step % every == 0 or self.step == self.params.iterations)

    def _save(self) -> None:
        if self.workers.rank == 0:
            extra = {"history": self.history, "sums": self.means.sums, "start": self.start}
            checkpoint.save(self.folder, self.step, self.parts, extra)
        self.saved_at = self._saved()

    def _saved(self) -> float:
        """When that was, and for the one who ends this process what it is."""
        saved = f"iteration {self.step} is saved, the same command goes on from it" if self.step else "nothing is saved"
        self.termination.kept = f"level {self.level}: {'worker 0 says what is saved' if self.workers.rank else saved}"
        return time.monotonic()

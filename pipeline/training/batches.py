"""Window batches: real pairs from the pyramid, and what generated clips are made from (Sec. 2, Eq. 3).

Every draw is a function of (seed, level, stream, update, position in the global batch), so that any number of workers
sees the same global batch and an interrupted run goes on with the same clips.
"""

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from models.config import LevelConfig
from pipeline.data import sampling
from pipeline.data.pixels import to_unit
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.params import TrainingParams
from pipeline.training.clips import Clips
from pipeline.workers import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """The clips of an iteration's updates, fresh for each."""

    discriminator: list[tuple[Clips, Clips]]  # real clips, and what fakes are made from
    generator: Clips  # what fakes are made from


class Batches:
    """The clips that one level is trained on.

    PAPER: Eq. 3 draws the conditions of fakes from level l-1 afresh; here from a stored set of its videos.

    real: the readers of x^l and, above level 1, of x^{l-1}, of the pyramid's training split.
    generated: the reader of level l-1's conditions; None at level 1, whose fakes take the data's labels alone.
    factors: K_T between successive views, lowest first, for all views of the pyramid.
    window: frames of the condition (level 1: of the view itself) that a clip spans.
    mirror: whether every second real clip, by chance, is seen in a mirror, its condition with it.
    """

    def __init__(
        self,
        config: LevelConfig,
        *,
        seed: int,
        real: ViewReader,
        real_condition: ViewReader | None,
        generated: ViewReader | None,
        factors: tuple[int, ...],
        window: int,
        mirror: bool = False,
    ) -> None:
        self.config, self.seed, self.factors, self.window = config, seed, factors, window
        self.length = window * config.factor  # frames of a clip
        self.real, self.real_condition, self.generated, self.mirror = real, real_condition, generated, mirror
        self.starts = windows_of_videos(real.top_frames, factors, config.level, window)
        self.videos = np.flatnonzero(self.starts)
        self.labels: Int64[np.ndarray, " videos"] = real.labels[self.videos]  # of those that the level is trained on
        if not len(self.videos):
            span = window * math.prod(factors[max(config.level - 2, 0) :])
            raise UserError(
                f"levels.{config.level}.training.window: {window} frames span {span} of the top view, and the longest"
                f" video of the training split has {int(real.top_frames.max())}"
            )
        if config.classes and (self.labels < 0).any():
            raise UserError(
                f"data.classes: {int((self.labels < 0).sum())} training videos have no class;"
                " give them one, or set data.classes=0 to ignore classes"
            )
        if short := len(self.starts) - len(self.videos):
            log.warning("%d of %d videos are shorter than a window and left out of training", short, len(self.starts))

    def iterations(self, done: int, params: TrainingParams, workers: Workers) -> Iterator[Iteration]:
        """This worker's clips of every iteration after `done`; the next one's are read while one is in use."""
        positions, steps = workers.positions(params.batch), params.discriminator_steps

        def read(iteration: int) -> Iteration:
            first = iteration * (steps + 1)
            of_discriminator = range(first, first + steps)
            return Iteration(
                discriminator=[
                    (self.real_clips(u, positions), self.fake_clips(u, positions)) for u in of_discriminator
                ],
                generator=self.fake_clips(first + steps, positions),
            )

        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for iteration in range(done, params.iterations):
                pending, ahead = ahead, reader.submit(read, iteration)
                if pending:
                    yield pending.result()
            if ahead:
                yield ahead.result()

    def real_clips(self, update: int, positions: range) -> Clips:
        """Pairs (x^l, x^{l-1}) of the data with their labels, at the same place in every view."""
        return self._clips("real", update, positions, self._real)

    def fake_clips(
        self, update: int, positions: range, stream: str = "fake", conditions: ViewReader | None = None
    ) -> Clips:
        """What fakes are made from: z ~ N(0, I), and a window of a video of level l-1's own with its label (Eq. 3).

        stream: names what they are for; another one than training's has other draws.
        conditions: videos of level l-1 to take in place of training's.
        """
        return self._clips(stream, update, positions, partial(self._fake, conditions or self.generated))

    def _real(self, draw: np.random.Generator) -> dict[str, Any]:
        level = self.config.level
        video = int(self.videos[draw.integers(len(self.videos))])
        start = choose_start(draw.random(), int(self.starts[video]))
        clip = {
            "video": self.real.read(video, start_in_view(start, self.factors, level), self.length),
            "labels": self.real.labels[video],
        }
        if self.real_condition is not None:
            first = start_in_view(start, self.factors, level - 1)
            clip["condition"] = self.real_condition.read(video, first, self.window)
        if self.mirror and draw.random() < 0.5:
            clip |= {name: clip[name][:, :, ::-1] for name in ("video", "condition") if name in clip}
        return clip

    def _fake(self, generated: ViewReader | None, draw: np.random.Generator) -> dict[str, Any]:
        level = self.config.level
        noise = draw.standard_normal(self.config.generator.noise, dtype=np.float32)
        if generated is None:
            return {"noise": noise, "labels": self.labels[draw.integers(len(self.videos))]}
        video = int(draw.integers(len(generated)))
        below = self.factors[: level - 2]  # between the views of the samples and the lowest one
        starts = windows_of_videos(generated.n_frames[video : video + 1], below, level, self.window)
        start = start_in_view(choose_start(draw.random(), int(starts[0])), self.factors, level - 1)
        condition = generated.read(video, start, self.window)
        return {"noise": noise, "labels": generated.labels[video], "condition": condition}

    def _clips(
        self, stream: str, update: int, positions: range, clip: Callable[[np.random.Generator], dict[str, Any]]
    ) -> Clips:
        """A clip by `clip` for every position, and what discriminators see of it: arrays by the names of `Clips`."""
        config, clips = self.config, []
        for position in positions:
            draw, seen = (
                sampling.generator(self.seed, config.level, name, update, position)
                for name in (stream, f"{stream}-seen")
            )
            frames = seen.permutation(self.length)[: config.discriminators.frames]
            clips.append({**clip(draw), "frames": frames})
            if config.condition is not None and config.discriminators.matching:
                shape = (self.window, 6, config.condition.size, config.condition.size)
                clips[-1]["rounding"] = (seen.random(shape, dtype=np.float32) - 0.5) / 127.5
        arrays = {name: np.stack([one[name] for one in clips]) for name in clips[0]}
        if not config.classes:
            del arrays["labels"]
        videos = ("video", "condition")
        return Clips(**{n: to_unit(a) if n in videos else torch.from_numpy(a) for n, a in arrays.items()})

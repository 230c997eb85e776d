"""Measuring G while it is trained (Fig. 9), and keeping the best one for early stopping (Sec. 5.1).

PAPER: which metric stops, measured how and how often is not said; here a Frechet distance of windows as trained.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.generator import Generator
from pipeline.data import sampling
from pipeline.data.pixels import to_bytes
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.metrics.features import FeatureNetwork, extract, load_i3d, random_i3d
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.weights import find_weights
from pipeline.params import Measure, Params
from pipeline.paths import Paths
from pipeline.training.batches import Batches
from pipeline.workers import Workers

LOGITS = 400  # of Kinetics-400's classes
SPLIT = "val"  # its clips measure, so that what was trained on does not


@dataclass
class Best:
    """The best measurement of a run and the generator it was of.

    All of it is part of a checkpoint, so that a run that goes on never publishes another generator than it says.
    """

    value: float = math.inf
    iteration: int = 0
    worse: int = 0  # measurements since then
    weights: dict[str, Tensor] = field(default_factory=dict)  # on the CPU

    def note(self, value: float, iteration: int, generator: Generator) -> None:
        """Take a measurement; the generator is kept where it is the best. PAPER: equal is not better."""
        if value >= self.value:
            self.worse += 1
            return
        self.value, self.iteration, self.worse = value, iteration, 0
        self.weights = {name: tensor.cpu().clone() for name, tensor in generator.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class WindowMeasure:
    """The Frechet distance between an I3D's logits of real windows of the validation split and of generated ones.

    Windows have training's length, and batch norm takes the statistics of each batch, as in training: the distance is
    no FVD and is not called so. Beside it the inception score of the generated ones, where `params.splits` asks for it.
    Conditions are some that no training sees. All draws have streams of their own: training goes on as if nothing was
    measured. Clips are shared among the workers, which have to take part all together.
    """

    def __init__(
        self,
        batches: Batches,
        real: ViewReader,
        conditions: ViewReader | None,
        network: FeatureNetwork,
        params: Measure,
        batch: int,
        workers: Workers,
    ) -> None:
        """real: the validation split of the level's view. conditions: kept back, of the level below; None at level 1.

        batch: training's.
        """
        self._batches, self._real, self._conditions, self._network = batches, real, conditions, network
        self.params, self._batch, self._workers = params, batch, workers
        self.name = "random_i3d_frechet_windows" if network.random else "frechet_windows"  # in a history
        self._starts = windows_of_videos(real.top_frames, batches.factors, batches.config.level, batches.window)
        if not self._starts.any():
            raise UserError(
                f"levels.{batches.config.level}.training.measure: no video of the split {SPLIT!r} is as long as "
                "a window of training; give it longer ones, or set it to null"
            )
        self._of_real: Tensor | None = None  # features of the real windows, which stay the same

    @property
    def weights(self) -> str:
        """Which network measures: the digest of its weights' file, or that they are random ones."""
        return self._network.sha256 or self._network.weights

    def __call__(self, generator: Generator) -> dict[str, float]:
        """The numbers by name, the distance first: the same on all workers, which stop at the same iteration."""
        if self._of_real is None:
            self._of_real = self._features(self._real_windows())
        generated = self._features(self._generated(generator))
        numbers = {self.name: frechet_distance(self._of_real, generated)}
        if self.params.splits is not None and not self._network.random:
            numbers["inception_score_windows"] = inception_score(generated, min(self.params.splits, len(generated)))[0]
        of_first = self._workers.of_first(torch.tensor(list(numbers.values()), dtype=torch.float64)).tolist()
        return dict(zip(numbers, of_first, strict=True))

    def _features(self, clips: Iterable[tuple[int, UInt8[np.ndarray, "b T H W 3"]]]) -> Float[Tensor, "N features"]:
        """Of this worker's clips, each part with its place among all, and of all the others'."""
        features = torch.zeros(self.params.videos, LOGITS, device=self._workers.device)
        for place, videos in clips:
            for part in extract(self._network, torch.from_numpy(videos).movedim(-1, -3)):
                features[place : place + len(part.logits)] = part.logits.to(features)
                place += len(part.logits)
        return self._workers.sum(features).cpu()

    def _real_windows(self) -> Iterator[tuple[int, UInt8[np.ndarray, "1 T H W 3"]]]:
        """Windows of as many videos as there are, in a random order, each as often."""
        seed, level, factors = self._batches.seed, self._batches.config.level, self._batches.factors
        usable = np.flatnonzero(self._starts)
        order = sampling.generator(seed, level, "measure videos", 0, 0).permutation(usable)
        for i in range(self._workers.rank, self.params.videos, self._workers.count):
            video = order[i % len(order)]
            uniform = sampling.generator(seed, level, "measure starts", 0, i).random()
            start = start_in_view(choose_start(uniform, int(self._starts[video])), factors, level)
            yield i, self._real.read(video, start, self._batches.length)[None]

    @torch.no_grad()
    def _generated(self, generator: Generator) -> Iterator[tuple[int, UInt8[np.ndarray, "b T H W 3"]]]:
        positions, videos = self._workers.positions(self._batch), self.params.videos
        for number, first in enumerate(range(positions.start, videos + positions.start, self._batch)):
            clips = self._batches.fake_clips(number, positions, "measure", self._conditions).to(self._workers.device)
            generated = to_bytes(generator(clips.noise, clips.labels, clips.condition))
            if first < videos:  # the last batch may have more than it takes
                yield first, generated[: videos - first]


def window_measure(batches: Batches, params: Params, paths: Paths, workers: Workers) -> WindowMeasure:
    """What a level's `training.measure` asks for, by the I3D that it names or a random one.

    Raises UserError by key where the data has no validation split.
    """
    level = batches.config.level
    training = params.of_level(level).training
    chosen, key = training.measure, f"levels.{level}.training.measure"
    assert chosen is not None
    try:
        real = ViewReader(paths.pyramid, level, SPLIT)
    except UserError as error:
        raise UserError(f"{key}: {error}; give the data a split {SPLIT!r}, or set it to null") from error
    conditions = ViewReader(paths.conditions(level - 1), level - 1, "measure") if level > 1 else None
    if chosen.i3d is None:
        network = random_i3d(params.seed, workers.device)
    else:
        network = load_i3d(find_weights(chosen.i3d, paths.root, f"{key}.i3d"), LOGITS, f"{key}.i3d", workers.device)
    return WindowMeasure(batches, real, conditions, network, chosen, training.batch, workers)

"""Early stopping on a metric, as in Sec. 5.1: measuring G while it is trained, and keeping the best one.

PAPER: which metric, measured how and how often is not said; here a Frechet distance of training's windows.
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
from models.i3d import FEATURES
from pipeline.data import sampling
from pipeline.data.pixels import to_bytes
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.metrics.features import FeatureNetwork, extract, load_i3d, random_i3d
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.weights import find_weights
from pipeline.params import EarlyStopping, Params
from pipeline.paths import Paths
from pipeline.training.batches import Batches
from pipeline.workers import Workers

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


class WindowDistance:
    """The Frechet distance between I3D features of real windows of the validation split and of generated ones.

    Windows have training's length, and batch norm takes the statistics of each batch, as in training: the distance is
    no FVD or FID and is not called so. Its draws have streams of their own: training goes on as if nothing was
    measured. Clips are shared among the workers, which have to take part all together.
    """

    def __init__(
        self,
        batches: Batches,
        real: ViewReader,
        network: FeatureNetwork,
        stopping: EarlyStopping,
        batch: int,
        workers: Workers,
    ) -> None:
        """real: the validation split of the level's view. batch: training's."""
        self._batches, self._real, self._network, self.stopping = batches, real, network, stopping
        self._batch, self._workers = batch, workers
        self.name = "random_i3d_frechet_windows" if network.random else "frechet_windows"  # in a history
        self._starts = windows_of_videos(real.top_frames, batches.factors, batches.config.level, batches.window)
        if not self._starts.any():
            raise UserError(
                f"levels.{batches.config.level}.training.early_stopping: no video of the split {SPLIT!r} is as long as "
                "a window of training; give it longer ones, or set it to null"
            )
        self._of_real: Tensor | None = None  # features of the real windows, which stay the same

    @property
    def weights(self) -> str:
        """Which network measures: the digest of its weights' file, or that they are random ones."""
        return self._network.sha256 or self._network.weights

    def __call__(self, generator: Generator) -> float:
        """The distance, the same on all workers: they stop at the same iteration."""
        if self._of_real is None:
            self._of_real = self._features(self._real_windows())
        distance = frechet_distance(self._of_real, self._features(self._generated(generator)))
        return float(self._workers.of_first(torch.tensor(distance, dtype=torch.float64)))

    def _features(self, clips: Iterable[tuple[int, UInt8[np.ndarray, "b T H W 3"]]]) -> Float[Tensor, "N features"]:
        """Of this worker's clips, each part with its place among all, and of all the others'."""
        features = torch.zeros(self.stopping.videos, FEATURES, device=self._workers.device)
        for place, videos in clips:
            for part in extract(self._network, torch.from_numpy(videos).movedim(-1, -3)):
                features[place : place + len(part.pooled)] = part.pooled.to(features)
                place += len(part.pooled)
        return self._workers.sum(features).cpu()

    def _real_windows(self) -> Iterator[tuple[int, UInt8[np.ndarray, "1 T H W 3"]]]:
        """Windows of as many videos as there are, in a random order, each as often."""
        seed, level, factors = self._batches.seed, self._batches.config.level, self._batches.factors
        usable = np.flatnonzero(self._starts)
        order = sampling.generator(seed, level, "early-stopping videos", 0, 0).permutation(usable)
        for i in range(self._workers.rank, self.stopping.videos, self._workers.count):
            video = order[i % len(order)]
            uniform = sampling.generator(seed, level, "early-stopping starts", 0, i).random()
            start = start_in_view(choose_start(uniform, int(self._starts[video])), factors, level)
            yield i, self._real.read(video, start, self._batches.length)[None]

    @torch.no_grad()
    def _generated(self, generator: Generator) -> Iterator[tuple[int, UInt8[np.ndarray, "b T H W 3"]]]:
        positions, videos = self._workers.positions(self._batch), self.stopping.videos
        for number, first in enumerate(range(positions.start, videos + positions.start, self._batch)):
            clips = self._batches.fake_clips(number, positions, "early-stopping").to(self._workers.device)
            generated = to_bytes(generator(clips.noise, clips.labels, clips.condition))
            if first < videos:  # the last batch may have more than it takes
                yield first, generated[: videos - first]


def window_distance(batches: Batches, params: Params, paths: Paths, workers: Workers) -> WindowDistance:
    """The distance that a level's early stopping asks for, by the I3D that it names or a random one.

    Raises UserError by key where the data has no validation split.
    """
    level = batches.config.level
    training = params.of_level(level).training
    stopping, key = training.early_stopping, f"levels.{level}.training.early_stopping"
    assert stopping is not None
    try:
        real = ViewReader(paths.pyramid, level, SPLIT)
    except UserError as error:
        raise UserError(f"{key}: {error}; give the data a split {SPLIT!r}, or set it to null") from error
    if stopping.i3d is None:
        network = random_i3d(params.seed, workers.device)
    else:
        weights = find_weights(stopping.i3d, paths.root, f"{key}.i3d")
        network = load_i3d(weights, 600, f"{key}.i3d", workers.device)
    return WindowDistance(batches, real, network, stopping, training.batch, workers)

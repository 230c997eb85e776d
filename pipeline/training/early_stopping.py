"""Early stopping on a metric, as in Sec. 5.1: measuring G while it is trained, and keeping the best one.

PAPER: which metric, measured how and how often is not said; here a Frechet distance of training's windows.
"""

from collections.abc import Callable
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
from pipeline.params import EarlyStopping, Params
from pipeline.paths import Paths, origin
from pipeline.training.batches import Batches
from pipeline.workers import Workers

SPLIT = "val"  # its clips measure, so that what was trained on does not
CHUNK_CLIPS = 4  # clips from one question whether to stop to the next


class EarlyStopper:
    """The best measurement of a run and the generator it was of, and whether there was no better one for too long.

    Both are part of a checkpoint, so that a run that goes on never publishes another generator than it says.
    """

    def __init__(self, params: EarlyStopping) -> None:
        self.every, self._patience = params.every, params.patience
        self.best: float | None = None
        self.iteration = 0  # of the best
        self._worse = 0  # measurements since then
        self._weights: dict[str, Tensor] = {}  # on the CPU

    @property
    def over(self) -> bool:
        return self._worse >= self._patience

    def note(self, value: float, iteration: int, generator: Generator) -> None:
        """Take a measurement; the generator is kept where it is the best. PAPER: equal is not better."""
        if self.best is not None and value >= self.best:
            self._worse += 1
            return
        self.best, self.iteration, self._worse = value, iteration, 0
        self._weights = {name: tensor.cpu().clone() for name, tensor in generator.state_dict().items()}

    def restore(self, generator: Generator) -> None:
        """Give a generator the best one's weights."""
        generator.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        measured = {"best": self.best, "iteration": self.iteration, "worse": self._worse}
        return {**measured, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.iteration, self._worse = state["best"], state["iteration"], state["worse"]
        self._weights = state["weights"]


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
        *,
        videos: int,
        batch: int,
        workers: Workers,
    ) -> None:
        """real: the validation split of the level's view. videos: clips of each side. batch: training's."""
        self._batches, self._real, self._network = batches, real, network
        self._videos, self._batch, self._workers = videos, batch, workers
        self.name = "random_i3d_frechet_windows" if network.random else "frechet_windows"  # in a history
        self._clips = _windows(batches, real, videos)
        self._of_real: Tensor | None = None  # features of the real windows, which stay the same

    @property
    def weights(self) -> str:
        """Which network measures: the digest of its weights' file, or that they are random ones."""
        return self._network.sha256 or self._network.weights

    def __call__(self, generator: Generator, stop: Callable[[], bool]) -> float | None:
        """The distance; None where `stop`, which is asked now and then on all workers alike, said to leave off."""
        if self._of_real is None:
            self._of_real = self._features(self._real_windows, stop)
        generated = self._features(lambda number, positions: self._generated(generator, number, positions), stop)
        if self._of_real is None or generated is None:
            return None
        return self._workers.of_first(frechet_distance(self._of_real, generated))  # all stop at the same iteration

    def _features(
        self, clips: Callable[[int, range], UInt8[Tensor, "b T 3 H W"]], stop: Callable[[], bool]
    ) -> Float[Tensor, "N features"] | None:
        """All clips' features; `clips` makes this worker's of a batch. None where it was stopped."""
        features = torch.zeros(self._videos, FEATURES, device=self._workers.device)
        positions = self._workers.positions(self._batch)
        for number, first in enumerate(range(0, self._videos, self._batch)):
            begin = first + positions.start
            windows = clips(number, positions)[: max(self._videos - begin, 0)]
            for chunk in range(0, len(positions), CHUNK_CLIPS):  # as many on every worker, which are asked all together
                if stop():
                    return None
                part = windows[chunk : chunk + CHUNK_CLIPS]
                for batch in extract(self._network, part) if len(part) else ():
                    features[begin : begin + len(batch.pooled)] = batch.pooled.to(features)
                    begin += len(batch.pooled)
        return self._workers.sum(features).cpu()

    def _real_windows(self, number: int, positions: range) -> UInt8[Tensor, "b T 3 H W"]:
        chosen = self._clips[number * self._batch :][positions.start : positions.stop]
        length = self._batches.length
        size = self._batches.config.view.size
        frames = [self._real.read(video, start, length) for video, start in chosen]
        stacked = np.stack(frames) if frames else np.empty((0, length, size, size, 3), np.uint8)
        return torch.from_numpy(stacked).movedim(-1, -3)

    @torch.no_grad()
    def _generated(self, generator: Generator, number: int, positions: range) -> UInt8[Tensor, "b T 3 H W"]:
        clips = self._batches.fake_clips(number, positions, "early-stopping").to(self._workers.device)
        assert clips.noise is not None
        videos = to_bytes(generator(clips.noise, clips.labels, clips.condition))
        return torch.from_numpy(videos).movedim(-1, -3)


def window_distance(batches: Batches, params: Params, paths: Paths, workers: Workers) -> WindowDistance:
    """The distance that a level's early stopping asks for, by the I3D that it names or a random one.

    Raises UserError by key where the data has no validation split.
    """
    level = batches.config.level
    training = params.of_level(level).training
    assert training.early_stopping is not None
    file = training.early_stopping.i3d
    try:
        real = ViewReader(paths.pyramid, level, SPLIT)
    except UserError as error:
        raise UserError(
            f"levels.{level}.training.early_stopping: {error}; give the data a split {SPLIT!r}, or set it to null"
        ) from error
    if file is None:
        network = random_i3d(params.seed, workers.device)
    else:
        key = f"levels.{level}.training.early_stopping.i3d"
        network = load_i3d(origin(paths.root) / file, 600, key, workers.device)
    videos = training.early_stopping.videos
    return WindowDistance(batches, real, network, videos=videos, batch=training.batch, workers=workers)


def _windows(batches: Batches, real: ViewReader, count: int) -> list[tuple[int, int]]:
    """(video, first frame) of `count` windows: of as many videos as there are, in a random order, each as often."""
    level = batches.config.level
    starts = windows_of_videos(real.top_frames, batches.factors, level, batches.window)
    usable = np.flatnonzero(starts)
    if not len(usable):
        raise UserError(
            f"levels.{level}.training.early_stopping: no video of the split {SPLIT!r} is as long as a window of "
            "training; give it longer ones, or set it to null"
        )
    order = sampling.generator(batches.seed, level, "early-stopping videos", 0, 0).permutation(usable)
    chosen = []
    for i in range(count):
        video = int(order[i % len(order)])
        uniform = sampling.generator(batches.seed, level, "early-stopping starts", 0, i).random()
        chosen.append((video, start_in_view(choose_start(uniform, int(starts[video])), batches.factors, level)))
    return chosen

"""What a level's videos are made from: of every store its videos, its noise, its conditions and the levels below.

    data/conditions/level-l         what level l+1 is trained on, and a part kept back for measuring meanwhile
    data/samples/level-l/videos     what metrics are of, at sigma.metrics
    data/samples/level-l/figures    what people see, at sigma.figures
    data/samples/level-l/windows    of the top level alone, where it is trained on windows: as those are, for metrics

Each has latents of its own: nothing that a level is judged by has been trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from models.config import LevelConfig
from models.generator import Generator
from pipeline.data.store.codecs import Codec
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import windows_of_videos
from pipeline.generation import artifact
from pipeline.generation.statistics import read_statistics
from pipeline.params import GenerationParams, Params
from pipeline.paths import Paths
from pipeline.workers import Workers

RAW = Codec()


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a store of a level's videos is made from, beside the level's own generator."""

    splits: dict[str, int]  # videos by split of the store; a split's name decides its draws
    sigma: float  # the deviation of z (App. H)
    params: GenerationParams
    seed: int
    labels: Int64[np.ndarray, " videos"]  # of the data; level 1's videos keep their proportions
    classes: tuple[str, ...]
    # Of level l-1 videos by split: video i is made from video i there, whole or a window of it, and has its label.
    conditions: dict[str, ViewReader] | None
    below: tuple[Generator, ...] = ()  # the levels below, lowest first, with statistics for sigma
    window: int | None = None  # frames of the condition that a video is made from; None: all
    stride: int = 1  # frames of the condition from one place of a window to the next: where level 1 has a frame
    codec: Codec = RAW

    def frames(self, config: LevelConfig) -> int:
        """Of a video of the level."""
        return config.view.frames if self.window is None else self.window * config.factor


def condition_source(params: Params, paths: Paths, level: int, workers: Workers) -> Source:
    """Of data/conditions. Raises UserError where a level below is not trained or has no conditions."""
    wanted = params.conditions[str(level)]
    splits = {"train": wanted.train, "measure": wanted.measure}
    place, codec = paths.conditions, Codec.of(wanted)
    return _source(params, paths, level, workers, splits=splits, sigma=params.sigma.metrics, place=place, codec=codec)


def sample_sources(params: Params, paths: Paths, level: int, workers: Workers) -> dict[str, Callable[[], Source]]:
    """Of data/samples, by the stores' names: calls that look up what is there by then, and raise UserError likewise."""

    def source(name: str, videos: int, sigma: float, of: str, window: int | None = None) -> Callable[[], Source]:
        made_of = {"splits": {name: videos}, "sigma": sigma, "window": window}
        return partial(_source, params, paths, level, workers, place=lambda lower: paths.samples(lower) / of, **made_of)

    wanted, sigma, window = params.samples, params.sigma, params.measured_window
    sources = {
        "videos": source("videos", wanted.videos, sigma.metrics, of="videos"),
        "figures": source("figures", wanted.figures, sigma.figures, of="figures"),
    }
    if window is not None and level == params.n_levels:
        sources["windows"] = source("windows", wanted.windows, sigma.metrics, "videos", window)
    return sources


def _source(
    params: Params,
    paths: Paths,
    level: int,
    workers: Workers,
    *,
    splits: dict[str, int],
    sigma: float,
    place: Callable[[int], Path],
    window: int | None = None,
    codec: Codec = RAW,
) -> Source:
    """place: of the stores, by level, that conditions and the statistics of the levels below come from."""
    data = ViewReader(paths.pyramid, 1, "train", in_memory=0)
    conditions, below = None, ()
    if level > 1:
        names = {split: "videos" if split == "windows" else split for split in splits}
        conditions = {split: ViewReader(place(level - 1), level - 1, name) for split, name in names.items()}
        below = tuple(
            level_generator(params, paths, lower, place(lower), sigma).to(workers.device) for lower in range(1, level)
        )
    return Source(
        splits=splits,
        sigma=sigma,
        params=params.of_level(level).generation,
        seed=params.seed,
        labels=labels_of_data(params, data),
        classes=data.classes,
        conditions=conditions,
        below=below,
        window=window,
        stride=prod(params.factors[: max(level - 2, 0)]),
        codec=codec,
    )


def level_generator(params: Params, paths: Paths, level: int, store: Path, sigma: float) -> Generator:
    """A trained level with the statistics of one of its stores. Raises UserError where one of the two is not there."""
    folder = paths.artifact(level)
    generator = artifact.read(folder, params.level(level, classes=0))
    frames = generator.config.view.frames
    return read_statistics(store, generator, sigma=sigma, frames=frames, digest=artifact.digest(folder))


def labels_of_data(params: Params, data: ViewReader) -> Int64[np.ndarray, " videos"]:
    """The labels of the videos that level 1 is trained on, of the split `data`: its samples keep their proportions."""
    return data.labels[windows_of_videos(data.top_frames, params.factors, 1, params.window(1)) > 0]

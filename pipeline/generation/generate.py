"""What a trained level is used for: its recalibrated statistics, and its samples."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64

from models.config import LevelConfig
from models.generator import Generator
from models.unroll import Inputs, Statistics, recalibrate, unroll
from pipeline.data import sampling
from pipeline.data.pixels import to_bytes, to_unit
from pipeline.data.store.reader import ViewReader
from pipeline.data.store.writer import StoreWriter
from pipeline.data.windows import windows_of_videos
from pipeline.params import GenerationParams, Params, SigmaParams
from pipeline.paths import Paths
from pipeline.progress import progress
from pipeline.workers import Workers

log = logging.getLogger(__name__)

SHARD_VIDEOS = 64
SPLITS = ("samples", "figures")  # at sigma.metrics, at sigma.figures


def sigma_of(split: str, sigma: SigmaParams) -> float:
    """The deviation of z in a split of the samples (App. H)."""
    return {"samples": sigma.metrics, "figures": sigma.figures}[split]


def labels_of_data(params: Params, data: ViewReader) -> Int64[np.ndarray, " videos"]:
    """The labels of the videos that level 1 is trained on, of the split `data`: its samples keep their proportions."""
    return data.labels[windows_of_videos(data.top_frames, params.factors, 1, params.window(1)) > 0]


@dataclass(frozen=True, kw_only=True)
class SampleSource:
    """What a level's samples are made from, beside its generators."""

    params: GenerationParams
    videos: dict[str, int]  # how many, by split
    sigma: SigmaParams
    seed: int
    labels: Int64[np.ndarray, " videos"]  # of the data; level 1's samples keep their proportions
    classes: tuple[str, ...]
    # Level l-1's samples by split: sample i of a split is made from its sample i, whole and with its label.
    conditions: dict[str, ViewReader] | None


def source_of(params: Params, paths: Paths, level: int, data: ViewReader) -> SampleSource:
    """The pipeline's own source of a level's samples; `data`: any view of the training split.

    Raises UserError where the level below has no samples.
    """
    chosen, below = params.of_level(level).generation, level - 1
    return SampleSource(
        params=chosen,
        videos={"samples": chosen.videos, "figures": chosen.figures},
        sigma=params.sigma,
        seed=params.seed,
        labels=labels_of_data(params, data),
        classes=data.classes,
        conditions={split: ViewReader(paths.samples(below), below, split) for split in SPLITS} if below else None,
    )


def calibrate(
    generator: Generator, source: SampleSource, batch: int, workers: Workers
) -> dict[str, tuple[float, Statistics]]:
    """By split of the samples: the sigma of its noise, and per-timestep statistics at full length for it (App. A).

    batch: of each pass, over all workers. Labels are drawn from the source's at level 1, above it conditions are,
    whole and with their labels.
    """
    config, passes, conditions = generator.config, source.params.recalibration, source.conditions

    def inputs(split: str, deviation: float) -> Iterator[Inputs]:
        for step in progress(range(passes), desc=f"recalibrate level {config.level}, {split}", unit="passes"):
            noise, drawn, videos = [], [], []
            for position in workers.positions(batch):
                draw = sampling.generator(source.seed, config.level, f"recalibrate-{split}", step, position)
                noise.append(draw.standard_normal(config.generator.noise, dtype=np.float32) * deviation)
                if conditions is None:
                    drawn.append(source.labels[draw.integers(len(source.labels))])
                else:
                    condition = conditions[split]
                    video = int(draw.integers(len(condition)))
                    videos.append(condition.read(video, 0, int(condition.n_frames[video])))
                    drawn.append(condition.labels[video])
            yield _inputs(config, noise, drawn, videos, workers.device)

    sigmas = {split: sigma_of(split, source.sigma) for split in SPLITS}
    return {split: (deviation, recalibrate(generator, inputs(split, deviation))) for split, deviation in sigmas.items()}


def generate(generators: dict[str, Generator], source: SampleSource, store: Path, workers: Workers) -> None:
    """Generate a level's samples into a store; shards that are there already are not made again.

    generators: the level's, by split, each with its sigma's statistics.
    """
    config = next(iter(generators.values())).config
    rows = _rows(config, source)
    writer = StoreWriter(
        store,
        views={config.level: (config.view.frames, config.view.size)},
        videos=len(rows),
        shard_videos=min(SHARD_VIDEOS, len(rows)),
    )
    missing = [first for first in range(0, len(rows), writer.shard_videos) if not writer.done(first)]
    workers.wait()  # before anyone writes: all share out the same shards
    shards = missing[workers.rank :: workers.count]
    for first in progress(shards, desc=f"generate level {config.level}", unit="shards"):
        videos = []
        for split, part in rows.iloc[first : first + writer.shard_videos].groupby("split", sort=False):
            for begin in range(0, len(part), source.params.batch):
                batch = part.iloc[begin : begin + source.params.batch]
                videos.append(_videos(generators[str(split)], batch, source, workers))
        writer.write(first, {config.level: np.concatenate(videos)})
    workers.wait()
    if workers.rank == 0:
        writer.finish(rows, kind="samples", classes=source.classes)
        frames, size = config.view.frames, config.view.size
        log.info("level %d: %d videos of %d frames at %dx%d", config.level, len(rows), frames, size, size)


def _rows(config: LevelConfig, source: SampleSource) -> pd.DataFrame:
    """The index of the samples: split by split, with labels in the data's proportions, or the conditions' own."""
    parts = []
    for split, count in source.videos.items():
        if source.conditions is not None:
            labels = source.conditions[split].labels[:count]
        elif config.classes:
            ordered = sampling.spread(np.bincount(source.labels, minlength=config.classes), count)
            labels = sampling.generator(source.seed, config.level, f"labels-{split}", 0, 0).permutation(ordered)
        else:
            labels = np.full(count, -1)
        columns = {"split": split, "sample": np.arange(len(labels)), "label": labels}
        parts.append(pd.DataFrame({**columns, "sigma": sigma_of(split, source.sigma)}))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "row", np.arange(len(rows)))
    rows["class"] = [source.classes[i] if 0 <= i < len(source.classes) else "" for i in rows["label"]]
    rows["n_frames"] = config.view.frames
    return rows


def _videos(generator: Generator, rows: pd.DataFrame, source: SampleSource, workers: Workers) -> np.ndarray:
    """The videos of some rows of one split: uint8 [n, T, H, W, 3]."""
    config = generator.config
    noise, conditions = [], []
    for split, sample, sigma in zip(rows["split"], rows["sample"], rows["sigma"], strict=True):
        draw = sampling.generator(source.seed, config.level, f"generate-{split}", 0, sample)
        noise.append(draw.standard_normal(config.generator.noise, dtype=np.float32) * sigma)
        if source.conditions is not None:
            below = source.conditions[split]
            conditions.append(below.read(sample, 0, int(below.n_frames[sample])))
    inputs = _inputs(config, noise, list(rows["label"]), conditions, workers.device)
    return to_bytes(unroll(generator, *inputs, piece=source.params.piece))


def _inputs(
    config: LevelConfig, noise: list[np.ndarray], labels: list, conditions: list[np.ndarray], device: torch.device
) -> Inputs:
    z = torch.from_numpy(np.stack(noise).astype(np.float32)).to(device)
    y = torch.tensor([int(label) for label in labels], device=device) if config.classes else None
    x = to_unit(np.stack(conditions)).to(device) if conditions else None
    return z, y, x

"""What a trained level is used for: its recalibrated statistics, and its samples."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from models.config import LevelConfig
from models.generator import Generator
from models.unroll import Inputs, Statistics, recalibrate, unroll
from pipeline import sampling
from pipeline.data.store import StoreWriter
from pipeline.data.windows import ViewReader
from pipeline.params import GenerationParams, SigmaParams
from pipeline.progress import progress
from pipeline.training.batches import to_bytes, to_unit
from pipeline.training.distributed import Workers

log = logging.getLogger(__name__)

SHARD_VIDEOS = 64
SPLITS = ("samples", "figures")  # at sigma.metrics, at sigma.figures


def sigma_of(split: str, sigma: SigmaParams) -> float:
    """The deviation of z in a split of the samples (App. H)."""
    return {"samples": sigma.metrics, "figures": sigma.figures}[split]


def statistics(
    generator: Generator,
    *,
    split: str,
    sigma: float,
    passes: int,
    batch: int,
    seed: int,
    labels: np.ndarray,
    condition: ViewReader | None,
    workers: Workers,
) -> Statistics:
    """Per-timestep statistics at full length for noise of deviation `sigma` (App. A; `passes` is 200 there).

    labels: the data's, to draw from at level 1.
    condition: level l-1's samples of the same split, whole and with their labels; None at level 1.
    """
    config = generator.config

    def batches() -> Iterator[Inputs]:
        for step in progress(range(passes), desc=f"recalibrate level {config.level}, sigma {sigma:g}", unit="passes"):
            noise, chosen, conditions = [], [], []
            for position in workers.positions(batch):
                draw = sampling.generator(seed, config.level, f"recalibrate-{split}", step, position)
                noise.append(draw.standard_normal(config.generator.noise, dtype=np.float32) * sigma)
                if condition is None:
                    chosen.append(labels[draw.integers(len(labels))])
                else:
                    video = int(draw.integers(len(condition)))
                    conditions.append(condition.read(video, 0, int(condition.n_frames[video])))
                    chosen.append(condition.labels[video])
            yield _inputs(config, noise, chosen, conditions, workers.device)

    return recalibrate(generator, batches())


def generate(
    generators: dict[str, Generator],
    *,
    store: Path,
    params: GenerationParams,
    sigma: SigmaParams,
    seed: int,
    labels: np.ndarray,
    classes: tuple[str, ...],
    conditions: dict[str, ViewReader] | None,
    workers: Workers,
) -> None:
    """Generate a level's samples into a store; shards that are there already are not made again.

    generators: the level's, by split, each with its sigma's statistics.
    labels: the data's; a level-1 sample's label keeps their proportions.
    conditions: level l-1's samples by split: sample i of a split is made from its sample i, whole, with its label.
    """
    config = generators["samples"].config
    rows = _rows(config, params, sigma, seed, labels, classes, conditions)
    writer = StoreWriter(
        store,
        views={config.level: (config.view.frames, config.view.size)},
        videos=len(rows),
        shard_videos=min(SHARD_VIDEOS, len(rows)),
    )
    shards = range(0, len(rows), writer.shard_videos)
    bar = progress(total=len(rows), desc=f"generate level {config.level}", unit="videos")
    for number, first in enumerate(shards):
        of_shard = rows.iloc[first : first + writer.shard_videos]
        if not writer.done(first) and number % workers.count == workers.rank:
            videos = []
            for split, part in of_shard.groupby("split", sort=False):
                for begin in range(0, len(part), params.batch):
                    chosen = part.iloc[begin : begin + params.batch]
                    condition = conditions[str(split)] if conditions else None
                    videos.append(_videos(generators[str(split)], chosen, condition, seed, workers))
            writer.write(config.level, first, np.concatenate(videos))
        bar.update(len(of_shard))
    bar.close()
    workers.wait()
    if workers.rank == 0:
        writer.finish(rows, kind="samples", classes=classes)
        log.info("level %d: %d videos of %d frames at %dx%d", config.level, len(rows), *_shape(config))


def _shape(config: LevelConfig) -> tuple[int, int, int]:
    return config.view.frames, config.view.size, config.view.size


def _rows(
    config: LevelConfig,
    params: GenerationParams,
    sigma: SigmaParams,
    seed: int,
    labels: np.ndarray,
    classes: tuple[str, ...],
    conditions: dict[str, ViewReader] | None,
) -> pd.DataFrame:
    """The index of the samples: split by split, with labels in the data's proportions, or the conditions' own."""
    parts = []
    for split, count in zip(SPLITS, (params.videos, params.figures), strict=True):
        if conditions is not None:
            chosen = conditions[split].labels[:count]
        elif config.classes:
            ordered = sampling.spread(np.bincount(labels, minlength=config.classes), count)
            chosen = sampling.generator(seed, config.level, f"labels-{split}", 0, 0).permutation(ordered)
        else:
            chosen = np.full(count, -1)
        numbers = np.arange(len(chosen))
        parts.append(
            pd.DataFrame({"split": split, "sample": numbers, "label": chosen, "sigma": sigma_of(split, sigma)})
        )
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "row", np.arange(len(rows)))
    rows["class"] = [classes[label] if 0 <= label < len(classes) else "" for label in rows["label"]]
    rows["n_frames"] = config.view.frames
    return rows


def _videos(
    generator: Generator, rows: pd.DataFrame, condition: ViewReader | None, seed: int, workers: Workers
) -> np.ndarray:
    """The videos of some rows of one split: uint8 [n, T, H, W, 3]."""
    config = generator.config
    noise, conditions = [], []
    for split, sample, sigma in zip(rows["split"], rows["sample"], rows["sigma"], strict=True):
        draw = sampling.generator(seed, config.level, f"generate-{split}", 0, sample)
        noise.append(draw.standard_normal(config.generator.noise, dtype=np.float32) * sigma)
        if condition is not None:
            conditions.append(condition.read(sample, 0, int(condition.n_frames[sample])))
    inputs = _inputs(config, noise, list(rows["label"]), conditions, workers.device)
    return to_bytes(unroll(generator, *inputs))


def _inputs(
    config: LevelConfig, noise: list[np.ndarray], labels: list, conditions: list[np.ndarray], device: torch.device
) -> Inputs:
    z = torch.from_numpy(np.stack(noise).astype(np.float32)).to(device)
    y = torch.tensor([int(label) for label in labels], device=device) if config.classes else None
    x = to_unit(np.stack(conditions)).to(device) if conditions else None
    return z, y, x

"""What a trained level is used for: its recalibrated statistics, and its samples."""

import logging
from collections.abc import Iterator
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
from pipeline.params import GenerationParams, LevelParams, Params, SigmaParams
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


def calibrate(
    generator: Generator,
    labels: Int64[np.ndarray, " videos"],
    seed: int,
    params: LevelParams,
    sigma: SigmaParams,
    conditions: dict[str, ViewReader] | None,
    workers: Workers,
) -> dict[str, tuple[float, Statistics]]:
    """By split of the samples: the sigma of its noise, and per-timestep statistics at full length for it (App. A).

    labels: of the videos that the level was trained on; level 1 draws from them.
    conditions: level l-1's samples by split, which are taken whole and with their labels.
    """
    config, passes = generator.config, params.generation.recalibration

    def inputs(split: str, deviation: float) -> Iterator[Inputs]:
        for step in progress(range(passes), desc=f"recalibrate level {config.level}, {split}", unit="passes"):
            noise, drawn, videos = [], [], []
            for position in workers.positions(params.training.batch):
                draw = sampling.generator(seed, config.level, f"recalibrate-{split}", step, position)
                noise.append(draw.standard_normal(config.generator.noise, dtype=np.float32) * deviation)
                if conditions is None:
                    drawn.append(labels[draw.integers(len(labels))])
                else:
                    condition = conditions[split]
                    video = int(draw.integers(len(condition)))
                    videos.append(condition.read(video, 0, int(condition.n_frames[video])))
                    drawn.append(condition.labels[video])
            yield _inputs(config, noise, drawn, videos, workers.device)

    sigmas = {split: sigma_of(split, sigma) for split in SPLITS}
    return {split: (deviation, recalibrate(generator, inputs(split, deviation))) for split, deviation in sigmas.items()}


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

    generators: the level's, by split, each with its sigma's statistics. A split of no videos needs none.
    labels: level 1's samples keep their proportions.
    conditions: level l-1's samples by split: sample i of a split is made from its sample i, whole, with its label.
    """
    config = next(iter(generators.values())).config
    rows = _rows(config, params, sigma, seed, labels, classes, conditions)
    writer = StoreWriter(
        store,
        views={config.level: (config.view.frames, config.view.size)},
        videos=len(rows),
        shard_videos=min(SHARD_VIDEOS, len(rows)),
    )
    missing = [first for first in range(0, len(rows), writer.shard_videos) if not writer.done(first)]
    workers.wait()  # before anyone writes: all share out the same shards
    mine = missing[workers.rank :: workers.count]
    for first in progress(mine, desc=f"generate level {config.level}", unit="shards"):
        videos = []
        for split, part in rows.iloc[first : first + writer.shard_videos].groupby("split", sort=False):
            for begin in range(0, len(part), params.batch):
                chosen = part.iloc[begin : begin + params.batch]
                condition = conditions[str(split)] if conditions else None
                videos.append(_videos(generators[str(split)], chosen, condition, seed, params.piece, workers))
        writer.write(first, {config.level: np.concatenate(videos)})
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
        if not count:
            continue
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
    generator: Generator,
    rows: pd.DataFrame,
    condition: ViewReader | None,
    seed: int,
    piece: int | None,
    workers: Workers,
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
    return to_bytes(unroll(generator, *inputs, piece=piece))


def _inputs(
    config: LevelConfig, noise: list[np.ndarray], labels: list, conditions: list[np.ndarray], device: torch.device
) -> Inputs:
    z = torch.from_numpy(np.stack(noise).astype(np.float32)).to(device)
    y = torch.tensor([int(label) for label in labels], device=device) if config.classes else None
    x = to_unit(np.stack(conditions)).to(device) if conditions else None
    return z, y, x

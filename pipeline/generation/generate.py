"""A store of a trained level's videos, and the statistics that they are made with."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from models.config import LevelConfig
from models.generator import Generator
from models.unroll import Inputs, Statistics, recalibrate, unroll
from pipeline.data import sampling
from pipeline.data.pixels import to_bytes, to_unit
from pipeline.data.store.reader import ViewReader
from pipeline.data.store.writer import StoreWriter
from pipeline.data.windows import choose_start
from pipeline.errors import UserError
from pipeline.generation import artifact
from pipeline.generation.source import Source
from pipeline.generation.statistics import read_statistics, write_statistics
from pipeline.params import Params
from pipeline.paths import Made, Paths, alone, publish
from pipeline.progress import progress
from pipeline.system.values import fingerprint
from pipeline.workers import Workers

log = logging.getLogger(__name__)

SHARD_VIDEOS = 64


def publish_store(
    source: Source, params: Params, paths: Paths, level: int, out: Path, *, code: str, workers: Workers
) -> None:
    """Generate a store of a level and publish it as `out`, with its statistics; interrupted, it goes on.

    code: the hash of what decides the result, as the artefact, the conditions and the parameters do. What was made of
    the same before is published again as it is.
    """
    folder = paths.artifact(level)
    generator, digest = artifact.read(folder, params.level(level, classes=0)), artifact.digest(folder)
    below = [reader.digest for reader in (source.conditions or {}).values()]
    of_data = source.labels.tolist(), source.classes, source.codec, source.window, source.stride
    made_from = source.splits, source.sigma, source.params, source.seed, of_data
    batch = params.of_level(level).training.batch
    inputs = fingerprint(made_from, batch, below, digest, code)
    work = paths.work(f"generate-{'-'.join(out.parts[-2:])}", inputs, out)
    made, store = Made.of(paths, out, inputs), work / "samples"
    with alone(work, workers.rank):
        if workers.any(workers.rank == 0 and made.restore()):
            log.info("%s is as this code made it of this level; without %s it is made anew", made.out, made.folder)
            if workers.rank == 0:
                shutil.rmtree(work)
            return
        about = {"sigma": source.sigma, "frames": source.frames(generator.config), "digest": digest}
        generator.to(workers.device)
        if not workers.any(workers.rank == 0 and _calibrated(store, generator, about)):
            statistics = calibrate(generator, source, batch, workers)
            if workers.rank == 0:
                write_statistics(store, statistics, **about)
        workers.wait()  # until they are written
        generate(read_statistics(store, generator, **about).to(workers.device), source, store, workers)
        if workers.rank == 0:
            made.keep(store)
            publish(store, out)
            shutil.rmtree(work)


def _calibrated(store: Path, generator: Generator, about: dict[str, Any]) -> bool:
    """Whether a run that was stopped has left its statistics, undamaged."""
    try:
        return bool(read_statistics(store, generator, **about))
    except UserError as error:
        log.info("no statistics to go on with: %s", error)
        return False


def calibrate(generator: Generator, source: Source, batch: int, workers: Workers) -> Statistics:
    """Per-timestep statistics for a source's noise and length (App. A), of videos that nothing else is made of.

    batch: of each pass, over all workers. The conditions of a pass are drawn afresh, through all levels below.
    """
    config, name, passes = generator.config, next(iter(source.splits)), range(source.params.recalibration)

    def inputs() -> Iterator[Inputs]:
        for step in progress(passes, desc=f"recalibrate level {config.level}, {name}", unit="passes"):
            draws = [
                sampling.generator(source.seed, config.level, f"recalibrate-{name}", step, position)
                for position in workers.positions(batch)
            ]
            labels = [int(source.labels[draw.integers(len(source.labels))]) for draw in draws]
            conditions: list[np.ndarray] = []
            for first in range(0, len(draws), source.params.batch):
                part = slice(first, first + source.params.batch)
                conditions += _drawn(source, draws[part], labels[part], workers.device)
            yield _inputs(config, _noise(config, draws, source.sigma), labels, conditions, workers.device)

    return recalibrate(generator, inputs())


def _drawn(
    source: Source, draws: Sequence[np.random.Generator], labels: Sequence[int], device: torch.device
) -> list[np.ndarray]:
    """Conditions for some draws, made by the levels below: uint8 [t, h, w, 3] each; none at level 1."""
    videos: list[np.ndarray] = []
    for generator in source.below:
        config = generator.config
        inputs = _inputs(config, _noise(config, draws, source.sigma), labels, videos, device)
        videos = list(to_bytes(unroll(generator, *inputs)))
    return [_window(source, draw, video) for draw, video in zip(draws, videos, strict=bool(videos))]


def _window(source: Source, draw: np.random.Generator, video: np.ndarray) -> np.ndarray:
    if source.window is None:
        return video
    start = choose_start(draw.random(), (len(video) - source.window) // source.stride + 1) * source.stride
    return video[start : start + source.window]


def generate(generator: Generator, source: Source, store: Path, workers: Workers) -> None:
    """Generate a level's videos into a store; shards that are there already are not made again.

    generator: with statistics for the source's sigma and length.
    """
    config = generator.config
    rows = _rows(config, source)
    writer = StoreWriter(
        store,
        views={config.level: (source.frames(config), config.view.size)},
        videos=len(rows),
        shard_videos=min(SHARD_VIDEOS, len(rows)),
        codec=source.codec,
    )
    missing = [first for first in range(0, len(rows), writer.shard_videos) if not writer.done(first)]
    workers.wait()  # before anyone writes: all share out the same shards
    shards = missing[workers.rank :: workers.count]
    names = ", ".join(source.splits)
    for first in progress(shards, desc=f"generate level {config.level}, {names}", unit="shards"):
        part = rows.iloc[first : first + writer.shard_videos]
        batches = [part.iloc[i : i + source.params.batch] for i in range(0, len(part), source.params.batch)]
        videos = [_videos(generator, batch, source, workers) for batch in batches]
        writer.write(first, {config.level: np.concatenate(videos)})
    workers.wait()
    if workers.rank == 0:
        writer.finish(rows, kind="samples", classes=source.classes)
        frames, size = source.frames(config), config.view.size
        log.info("level %d, %s: %d videos of %d frames at %dx%d", config.level, names, len(rows), frames, size, size)


def _rows(config: LevelConfig, source: Source) -> pd.DataFrame:
    """The index of a store: split by split, with labels in the data's proportions, or the conditions' own."""
    parts = []
    for split, count in source.splits.items():
        if source.conditions is not None:
            labels = np.resize(source.conditions[split].labels, count)
        elif config.classes:
            ordered = sampling.spread(np.bincount(source.labels, minlength=config.classes), count)
            labels = sampling.generator(source.seed, config.level, f"labels-{split}", 0, 0).permutation(ordered)
        else:
            labels = np.full(count, -1)
        parts.append(pd.DataFrame({"split": split, "sample": np.arange(count), "label": labels}))
    rows = pd.concat(parts, ignore_index=True).assign(sigma=source.sigma, n_frames=source.frames(config))
    rows.insert(0, "row", np.arange(len(rows)))
    rows["class"] = [source.classes[i] if 0 <= i < len(source.classes) else "" for i in rows["label"]]
    return rows


def _videos(generator: Generator, rows: pd.DataFrame, source: Source, workers: Workers) -> np.ndarray:
    """The videos of some rows: uint8 [n, T, H, W, 3]."""
    config = generator.config
    draws = [
        sampling.generator(source.seed, config.level, f"generate-{split}", 0, sample)
        for split, sample in zip(rows["split"], rows["sample"], strict=True)
    ]
    noise, conditions = _noise(config, draws, source.sigma), []
    if source.conditions is not None:
        for draw, split, sample in zip(draws, rows["split"], rows["sample"], strict=True):
            conditions.append(_window(source, draw, _whole(source.conditions[split], sample)))
    inputs = _inputs(config, noise, rows["label"].tolist(), conditions, workers.device)
    return to_bytes(unroll(generator, *inputs, piece=source.params.piece))


def _whole(reader: ViewReader, sample: int) -> np.ndarray:
    """A sample's condition; of fewer conditions than samples one is taken several times."""
    video = sample % len(reader)
    return reader.read(video, 0, int(reader.n_frames[video]))


def _noise(config: LevelConfig, draws: Sequence[np.random.Generator], sigma: float) -> Tensor:
    """A level's z, one of each draw: float32 [B, n]."""
    rows = [draw.standard_normal(config.generator.noise, dtype=np.float32) * np.float32(sigma) for draw in draws]
    return torch.from_numpy(np.stack(rows))


def _inputs(
    config: LevelConfig, noise: Tensor, labels: Sequence[int], conditions: Sequence[np.ndarray], device: torch.device
) -> Inputs:
    y = torch.tensor(labels, device=device) if config.classes else None
    x = to_unit(np.stack(conditions)).to(device) if conditions else None
    return noise.to(device), y, x

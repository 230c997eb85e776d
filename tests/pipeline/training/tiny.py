"""A tiny hierarchy in memory: views of random videos behind the reader's interface, and batches on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.hierarchy import f_s
from models.unroll import Inputs
from pipeline.data.store.reader import ViewReader
from pipeline.params import TrainingParams
from pipeline.training.batches import Batches
from pipeline.training.clips import Clips
from pipeline.training.loop import Training
from pipeline.training.step import Networks
from pipeline.training.termination import termination
from pipeline.workers import Workers
from tests.models.level_configs import FIRST, SECOND

ALONE = Workers(rank=0, count=1, device=torch.device("cpu"))


class MemoryReader(ViewReader):
    """A ViewReader on an array [video, frame, H, W, 3] instead of a store."""

    def __init__(self, frames: np.ndarray, labels: np.ndarray, factor: int = 1) -> None:  # without the store's
        self.frames, self.labels = frames, labels
        self.n_frames = np.full(len(frames), frames.shape[1])
        self.top_frames = self.n_frames * factor
        self.rows = np.arange(len(frames))

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, video: int, start: int, frames: int) -> np.ndarray:
        assert 0 <= start <= start + frames <= self.n_frames[video]
        return self.frames[video, start : start + frames]


def views(videos: int = 6, frames: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x^1 at 8x8, x^2 at 16x16, labels)."""
    rng = np.random.default_rng(0)
    top = rng.integers(0, 256, (videos, frames, 16, 16, 3), np.uint8)
    low = f_s(torch.from_numpy(np.moveaxis(top[:, ::2], -1, 2)), 8).movedim(2, -1).numpy()
    return low, top, np.arange(videos) % 3


def batches(level: int, **changed: Any) -> Batches:
    low, top, labels = views()
    if level == 1:
        return Batches(
            FIRST,
            seed=1,
            real=MemoryReader(low, labels, 2),
            real_condition=None,
            generated=None,
            factors=(2,),
            window=4,
        )
    given: dict[str, Any] = {
        "seed": 1,
        "real": MemoryReader(top, labels),
        "real_condition": MemoryReader(low, labels, 2),
        "generated": MemoryReader(np.roll(low, 1, axis=0), np.roll(labels, 1)),
        "factors": (2,),
        "window": 2,
    }
    return Batches(SECOND, **{**given, **changed})


TRAINING = TrainingParams(
    window=2,
    batch=4,
    iterations=6,
    discriminator_steps=2,
    lr_generator=1e-3,
    lr_discriminator=1e-3,
    betas=(0.0, 0.999),
    checkpoint_every=2,
    log_every=3,
    precision="float32",
    compile=False,
    channels_last=False,
    recompute=False,
    accumulate=1,
    fused=False,
    average=None,
    samples_every=None,
    measure=None,
    start=None,
)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """What networks that are made meanwhile are of."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def dummy(clips: Clips, sigma: float = 1.0) -> Inputs:
    """What a generator takes, of fake clips."""
    assert clips.noise is not None
    return clips.noise * sigma, clips.labels, clips.condition


def networks(level: int, workers: Workers = ALONE) -> Networks:
    config = {1: FIRST, 2: SECOND}[level]
    return Networks(config, TRAINING, seed=0, workers=workers)


def train(
    trained: Networks,
    source: Batches,
    params: TrainingParams,
    workers: Workers,
    folder: Path,
    on_log: Any = lambda *_: None,
    **named: Any,
) -> Training:
    with termination() as stop:
        training = Training(trained, source, params, workers, folder, stop, on_log, **named)
        training.run()
        return training


def weights(trained: Networks) -> dict[str, torch.Tensor]:
    """Every weight and singular vector of G and D."""
    of_d = {f"D.{name}": value for name, value in trained.discriminators.state_dict().items()}
    return {**trained.generator.state_dict(), **of_d}


def same(a: Networks, b: Networks) -> bool:
    """Whether two pairs of networks are the same to the last bit."""
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())

"""Clips of noise, to train on where only the cost counts."""

import torch

from models.config import LevelConfig
from pipeline.training.clips import Clips


def random_clips(
    config: LevelConfig, window: int, batch: int, device: torch.device, *, real: bool, seed: int = 0
) -> Clips:
    """Clips of noise as `Batches` would make them: real ones with a video, others with z."""
    draw = torch.Generator().manual_seed(2 * seed + real)
    frames, condition, size = window * config.factor, config.condition, config.view.size
    seen = min(config.discriminators.frames, frames)
    matching = config.discriminators.matching and condition is not None

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=draw)

    return Clips(
        frames=torch.stack([torch.randperm(frames, generator=draw)[:seen] for _ in range(batch)]),
        video=noise(frames, 3, size, size).tanh() if real else None,
        noise=None if real else noise(config.generator.noise),
        condition=None if condition is None else noise(window, 3, condition.size, condition.size).tanh(),
        rounding=noise(window, 6, condition.size, condition.size) / 256 if matching and condition else None,
        labels=torch.randint(config.classes, (batch,), generator=draw) if config.classes else None,
    ).to(device)

"""An exponential moving average of a generator's weights, which is shown, measured and published in its place."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.generator import Generator
from models.layers import power_iteration


class Average:
    """A copy of G in float32 on its device that follows it slowly.

    PAPER: no average; off by default.

    Weights are averaged, singular vectors are not: those of G belong to other matrices, and a sigma taken with them
    would be too small. The average moves less in a step than G does, so that one power iteration a step of its own is
    enough for it as well.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        self.decay = decay
        self.generator = copy.deepcopy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Follow G after iteration `step`, from 1. Early on the memory is shorter, or the average would be of noise."""
        decay = min(self.decay, step / (step + 9))
        averages, weights = ([p.detach() for p in network.parameters()] for network in (self.generator, generator))
        get_ema_multi_avg_fn(decay)(averages, weights, step)
        power_iteration(self.generator)

"""What is seen of a run: means of its metrics, singular values, memory; and whether it still learns."""

import math

import psutil
import torch
from torch import Tensor

from models.layers import SpectralNorm
from pipeline.errors import UserError
from pipeline.training.step import Metrics, Networks
from pipeline.workers import Workers

History = list[dict[str, float | int]]  # of rows: step, and numbers by name
ZERO_LOSS = 1e-3  # a loss of D below it leaves G no gradient to learn from
LONG_ITERATIONS = 500


class Means:
    """Means of metrics since the last row, over all workers: the same on each."""

    def __init__(self, workers: Workers, sums: dict[str, tuple[Tensor, int]]) -> None:
        self._workers = workers
        self.sums = sums  # by name, each with how many it is of

    def add(self, metrics: Metrics) -> None:
        values = self._workers.mean(torch.stack([value.double() for value in metrics.values()]))
        for name, value in zip(metrics, values, strict=True):  # on their device: no waiting for a GPU
            total, count = self.sums.get(name, (torch.zeros_like(value), 0))
            self.sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        row = {name: float(total / count) for name, (total, count) in self.sums.items()}
        self.sums.clear()
        return row


@torch.no_grad()
def sigmas(networks: Networks) -> dict[str, float]:
    """The spectral norm that the first, middle and last layer of G and of D have before they are divided by it."""
    norms = {}
    for name, network in (("generator", networks.generator), ("discriminator", networks.discriminators)):
        layers = [module for module in network.modules() if isinstance(module, SpectralNorm)]
        for place, layer in (("first", layers[0]), ("middle", layers[len(layers) // 2]), ("last", layers[-1])):
            norms[f"sigma_{name}_{place}"] = layer.sigma().item()
    return norms


def memory_gib(device: torch.device) -> float:
    """The most memory that tensors took on a GPU so far; on a CPU what the process takes now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def check(history: History, level: int) -> None:
    """Raise UserError where training has diverged: a number that is none, or a D that nothing deceives any more.

    A hinge loss of D below 0.001 in every row of the last 500 iterations leaves G without anything to follow.
    """
    row = history[-1]
    of_level = f"levels.{level}.training"
    if not all(math.isfinite(value) for value in row.values()):
        raise UserError(
            f"level {level}: a loss is no number after iteration {row['step']}: training diverged; "
            f"lower {of_level}.lr_generator and lr_discriminator"
        )
    since = row["step"] - LONG_ITERATIONS
    losses = [r["loss_discriminator"] for r in history if r["step"] > since and "loss_discriminator" in r]
    if since >= 0 and max(losses) < ZERO_LOSS:
        raise UserError(
            f"level {level}: D's loss was below {ZERO_LOSS:g} for {LONG_ITERATIONS} iterations up to {row['step']}: it "
            f"knows every fake and G learns nothing; lower {of_level}.lr_discriminator, or give more data; "
            "hinge_* in MLflow are the losses of each discriminator"
        )

"""Batch-norm statistics for a length and a sigma, and unrolling a level over its whole condition (App. A, Sec. 2)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.generator import Generator
from models.layers import ConditionalBatchNorm, Moments

Inputs = tuple[Tensor, Tensor | None, Tensor | None]  # noise, labels, condition, as the generator takes them
Statistics = dict[str, Tensor]  # "<module>.mean" and "<module>.variance", each [T, C]


def _norms(generator: Generator) -> dict[str, ConditionalBatchNorm]:
    return {name: m for name, m in generator.named_modules() if isinstance(m, ConditionalBatchNorm)}


@torch.no_grad()
def recalibrate(generator: Generator, batches: Iterable[Inputs]) -> Statistics:
    """Exact cumulative per-timestep statistics over forward passes at the length and sigma of `batches` (App. A: 200).

    PAPER: how the passes are combined is not said; the moments of all of them together, no moving average.

    Every pass normalises with its own (global) batch's statistics, as in training; batches are equally large. The
    generator's weights, singular vectors and mode are as before afterwards.
    """
    training = generator.training
    norms = _norms(generator)
    generator.train()
    for norm in norms.values():
        norm.collected = Moments()
    try:
        for noise, labels, condition in batches:
            generator(noise, labels, condition)
        results = {name: norm.collected.result() for name, norm in norms.items() if norm.collected is not None}
    finally:
        for norm in norms.values():
            norm.collected = None
        generator.train(training)
    return {
        f"{name}.{part}": value
        for name, pair in results.items()
        for part, value in zip(("mean", "variance"), pair, strict=True)
    }


def use_statistics(generator: Generator, statistics: Statistics) -> None:
    """Give every batch norm its stored statistics: evaluation mode works at exactly their length.

    Raises KeyError where they are another network's.
    """
    for name, norm in _norms(generator).items():
        norm.stored = (statistics[f"{name}.mean"], statistics[f"{name}.variance"])


@torch.no_grad()
def unroll(
    generator: Generator,
    noise: Float[Tensor, "B n"],
    labels: Int[Tensor, " B"] | None,
    condition: Float[Tensor, "B t 3 h w"] | None,
) -> Float[Tensor, "B T 3 H W"]:
    """Videos in [-1, 1] over the whole condition (level 1: the whole view), with stored statistics (Sec. 2)."""
    assert not generator.training
    return generator(noise, labels, condition)

"""Batch-norm statistics for a length and a sigma, and unrolling a level over its whole condition (App. A, Sec. 2)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.generator import Generator
from models.layers import Conv
from models.norm import ConditionalBatchNorm, global_moments

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
    sums: dict[str, Tensor] = {}  # by norm, over the passes: of the mean and of the mean square, [2, T, C]

    def collect(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[name] = sums.get(name, 0) + global_moments(inputs[0])

    training, passes = generator.training, 0
    hooks = [norm.register_forward_pre_hook(partial(collect, name)) for name, norm in _norms(generator).items()]
    generator.train()
    try:
        for noise, labels, condition in batches:
            generator(noise, labels, condition)
            passes += 1
    finally:
        for hook in hooks:
            hook.remove()
        generator.train(training)
    statistics = {}
    for name, total in sums.items():
        mean, square = total / passes
        statistics |= {f"{name}.mean": mean.float(), f"{name}.variance": (square - mean**2).float()}
    return statistics


def use_statistics(generator: Generator, statistics: Statistics) -> None:
    """Give every batch norm its stored statistics: evaluation mode works at exactly their length.

    Raises KeyError or ValueError where they are another network's.
    """
    for name, norm in _norms(generator).items():
        mean, variance = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
        if mean.shape != variance.shape or mean.shape[1:] != norm.gain.weight.shape[:1]:
            raise ValueError(f"statistics of {name} have the shape {list(mean.shape)}")
        norm.stored = (mean, variance)


def reach(generator: Generator) -> int:
    """How many frames of the output, before and after it, a frame depends on. Raises ValueError for a ConvGRU level.

    Every unit's temporal convolution follows the one below at the output's frame rate: their reaches add up.
    """
    if generator.config.generator.temporal_layer == "convgru":
        raise ValueError("a level with a ConvGRU reaches back to the first frame: it is not unrolled in pieces")
    return sum(m.padding[0] for m in generator.modules() if isinstance(m, Conv) and len(m.padding) == 3)


@torch.no_grad()
def unroll(
    generator: Generator,
    noise: Float[Tensor, "B n"],
    labels: Int[Tensor, " B"] | None,
    condition: Float[Tensor, "B t 3 h w"] | None,
    piece: int | None = None,
) -> Float[Tensor, "B T 3 H W"]:
    """Videos in [-1, 1] over the whole condition (level 1: the whole view), with stored statistics (Sec. 2).

    piece: frames of the condition to unroll at a time, which bounds the memory; None: all. The result is the same to
        float rounding: pieces overlap by what their frames reach, take their own timesteps' statistics, and only the
        video's true ends are padded. Raises ValueError for a level with a ConvGRU.
    """
    assert not generator.training
    if piece is None or condition is None:
        return generator(noise, labels, condition)
    frames, k = condition.shape[1], generator.config.factor
    overlap = -(-reach(generator) // k)  # frames of the condition
    parts = []
    for begin in range(0, frames, piece):
        end = min(begin + piece, frames)
        first, last = max(begin - overlap, 0), min(end + overlap, frames)
        with _timesteps(generator, first * k, last * k, of=frames * k):
            video = generator(noise, labels, condition[:, first:last])
        parts.append(video[:, (begin - first) * k : (end - first) * k])
    return torch.cat(parts, dim=1)


@contextmanager
def _timesteps(generator: Generator, begin: int, end: int, *, of: int) -> Iterator[None]:
    """For a while, the stored statistics are those of some of the `of` timesteps that there are."""
    norms = _norms(generator).values()
    statistics = [norm.statistics(of) for norm in norms]
    for norm, (mean, variance) in zip(norms, statistics, strict=True):
        norm.stored = (mean[begin:end], variance[begin:end])
    try:
        yield
    finally:
        for norm, pair in zip(norms, statistics, strict=True):
            norm.stored = pair

"""Frechet distance between two sets of features (Heusel et al. 2017; FID and FVD in Sec. 5.1)."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pipeline.workers import Workers


class Moments(nn.Module):
    """Mean and covariance of vectors seen a few at a time, in float64; memory does not grow with their number.

    A module for its state dict alone: what was measured can be kept and read again.
    """

    _n: Tensor
    mean: Tensor
    _scatter: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("_n", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer("_scatter", torch.zeros(dimensions, dimensions, dtype=torch.float64))

    @property
    def count(self) -> int:
        return int(self._n)

    def update(self, vectors: Shaped[Tensor, "N D"]) -> None:
        """Add some vectors. Raises ValueError where one is not finite."""
        x = vectors.to(self.mean)
        if not torch.isfinite(x).all():
            raise ValueError("features that are not finite: look for NaN in the clips or the network's weights")
        if not len(x):
            return
        # Merging of scatter matrices (Chan et al. 1979): no difference of large numbers.
        mean = x.mean(dim=0)
        delta, total = mean - self.mean, self.count + len(x)
        self._scatter += (x - mean).T @ (x - mean) + torch.outer(delta, delta) * (self.count * len(x) / total)
        self.mean += delta * (len(x) / total)
        self._n += len(x)

    def gather(self, workers: Workers) -> None:
        """Take in what the other workers saw."""
        total = workers.sum(self._n)
        mean = workers.sum(self.mean * self._n) / total.clamp_min(1)
        delta = self.mean - mean
        self._scatter.copy_(workers.sum(self._scatter + torch.outer(delta, delta) * self._n))
        self.mean.copy_(mean)
        self._n.copy_(total)

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """With N - 1. Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance takes at least 2 videos, not {self.count}")
        return self._scatter / (self.count - 1)


def _root(symmetric: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(symmetric)
    rounding = len(values) * torch.finfo(values.dtype).eps * values.abs().max()  # whose root would be no small number
    return (vectors * values.where(values > rounding, 0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    The last trace is the sum of the singular values of A^1/2 B^1/2: unlike the root of A B, exact to rounding where
    there are fewer videos than dimensions and the covariances have no full rank.
    """
    cov_a, cov_b = a.covariance, b.covariance
    cross = torch.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding


def frechet_of_sets(a: Shaped[Tensor, "N D"], b: Shaped[Tensor, "M D"]) -> float:
    """The Frechet distance between two sets of vectors held whole: fast where they are fewer than their dimensions.

    With A = X'X and B = Y'Y, X and Y centred and divided by the root of N - 1, the singular values of A^1/2 B^1/2 are
    those of X Y', N x M. Raises ValueError for fewer than two vectors or values that are not finite.
    """
    if max(len(a), len(b)) > a.shape[1]:
        moments = Moments(a.shape[1]), Moments(a.shape[1])
        for side, vectors in zip(moments, (a, b), strict=True):
            side.update(vectors)
        return frechet_distance(*moments)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance takes at least 2 videos, not {min(len(a), len(b))}")
    x, y = a.double(), b.double()
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("features that are not finite: look for NaN in the clips or the network's weights")
    delta = x.mean(dim=0) - y.mean(dim=0)
    x = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    y = (y - y.mean(dim=0)) / (len(y) - 1) ** 0.5
    cross = torch.linalg.svdvals(x @ y.T).sum()
    distance = delta.square().sum() + x.square().sum() + y.square().sum() - 2 * cross
    return max(distance.item(), 0.0)

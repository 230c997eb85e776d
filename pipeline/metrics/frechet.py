"""Frechet distance between two sets of features (Heusel et al. 2017; FID and FVD in Sec. 5.1)."""

import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Mean and covariance of vectors seen a few at a time, in float64; memory does not grow with their number."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean: Float[Tensor, " D"] = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter: Float[Tensor, "D D"] = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def update(self, vectors: Float[Tensor, "N D"]) -> None:
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
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """With N - 1. Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance takes at least 2 videos, not {self.count}")
        return self._scatter / (self.count - 1)


def _root(symmetric: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    The last trace is the sum of the singular values of A^1/2 B^1/2: unlike the root of A B, exact to rounding where
    there are fewer videos than dimensions and the covariances have no full rank.
    """
    cov_a, cov_b = a.covariance, b.covariance
    cross = torch.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding

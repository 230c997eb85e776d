"""Frechet distance between two sets of features (Heusel et al. 2017; FID and FVD in Sec. 5.1)."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def frechet_distance(a: Shaped[Tensor, "N D"], b: Shaped[Tensor, "M D"]) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of two sets' means and covariances, in float64.

    With A = X'X and B = Y'Y the last trace is the sum of the singular values of X Y': unlike the root of A B, exact to
    rounding where there are fewer vectors than dimensions and the covariances have no full rank. Raises ValueError for
    fewer than two vectors.
    """
    (mean_a, x), (mean_b, y) = _mean_and_root(a), _mean_and_root(b)
    cross = torch.linalg.svdvals(x @ y.T).sum()
    distance = (mean_a - mean_b).square().sum() + x.square().sum() + y.square().sum() - 2 * cross
    return max(distance.item(), 0.0)  # rounding


def _mean_and_root(vectors: Shaped[Tensor, "N D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, "R D"]]:
    """The mean, and X with X'X the covariance (N - 1): the centred vectors, or D x D numbers for many."""
    if len(vectors) < 2:
        raise ValueError(f"a covariance takes at least 2 videos, not {len(vectors)}")
    x = vectors.double()
    mean = x.mean(dim=0)
    x = (x - mean) / (len(x) - 1) ** 0.5
    if len(x) > x.shape[1]:
        values, axes = torch.linalg.eigh(x.T @ x)
        rounding = len(values) * torch.finfo(values.dtype).eps * values.max()  # whose root would be no small number
        x = (axes * values.where(values > rounding, 0).sqrt()).T
    return mean, x

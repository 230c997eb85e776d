"""What compares every clip with every other: kernel distance, and precision and recall by nearest neighbours.

Beside a Frechet distance these tell a set that lacks variety from one of clips that look like none of the others.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

NEIGHBOURS = 3  # as the paper of precision and recall, and its code
BLOCK_PAIRS = 2**25  # at a time, a quarter of a GB: all pairs of 50,000 clips would take 20


def kernel_distance(a: Shaped[Tensor, "N D"], b: Shaped[Tensor, "M D"]) -> float:
    """The unbiased MMD^2 of two sets under the kernel (x.y / D + 1)^3 (Binkowski et al. 2018), in float64.

    It does not depend on how many vectors there are, but for its deviation, and is below 0 for half of all pairs of
    sets that do not differ. Raises ValueError for fewer than two vectors.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a kernel distance takes at least 2 videos, not {min(len(a), len(b))}")
    x, y = a.double(), b.double()
    return (_within(x) + _within(y) - 2 * _kernels(x, y) / (len(x) * len(y))).item()


def _within(x: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """The mean kernel of two different vectors."""
    with_themselves = (x.square().mean(dim=1) + 1).pow(3).sum()
    return (_kernels(x, x) - with_themselves) / (len(x) * (len(x) - 1))


def _kernels(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
    """The sum over all pairs."""
    sums = [(part @ y.T).div_(x.shape[1]).add_(1).pow_(3).sum() for part in _parts(x, y)]
    return torch.stack(sums).sum()


def share_inside(points: Shaped[Tensor, "N D"], of: Shaped[Tensor, "M D"]) -> float:
    """The share of points as near to some vector of a set as its NEIGHBOURS-th nearest one in the set, or nearer.

    Of generated points in the real set it is precision, of real ones in the generated set recall (Kynkaanniemi et al.
    2019, Eq. 1 and 2). In a set of NEIGHBOURS vectors or fewer the furthest counts. Raises ValueError for fewer than
    two.
    """
    if len(of) < 2:
        raise ValueError(f"nearest neighbours take at least 2 videos, not {len(of)}")
    x, y = points.double(), of.double()
    nearest = min(NEIGHBOURS, len(y) - 1) + 1  # with itself
    closest = [torch.cdist(part, y).topk(nearest, largest=False).values for part in _parts(y, y)]
    radii = torch.cat(closest).amax(dim=1)
    inside = [(torch.cdist(part, y) <= radii).any(dim=1) for part in _parts(x, y)]
    return torch.cat(inside).double().mean().item()


def _parts(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> tuple[Float[Tensor, "n D"], ...]:
    """The vectors of x, as many at a time as make BLOCK_PAIRS pairs with those of y."""
    return x.split(max(BLOCK_PAIRS // len(y), 1))

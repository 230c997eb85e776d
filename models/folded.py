"""A convolution with the pooling after it or the upsampling before it as one, with 2.25 times fewer multiplications.

All are linear, so that the kernel of the one follows from the other's exactly: along an axis (W_0, W_1, W_2) becomes
(W_0, W_0 + W_1, W_1 + W_2, W_2), at a stride of two.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.layers import Conv, without_autocast

_folded = True


@contextmanager
def unfolded() -> Iterator[None]:
    """For a while the two operations one after the other, as they are defined: a network's arithmetic is counted so."""
    global _folded
    _folded = False
    try:
        yield
    finally:
        _folded = True


def pool(x: Float[Tensor, "N C ..."]) -> Float[Tensor, "N C ..."]:
    """Means of 2x2 pixels.

    PAPER: how 3D blocks pool is not said; in time as well while two timesteps are left, an odd last one by itself.
    """
    if x.ndim == 4:
        return F.avg_pool2d(x, 2)
    return F.avg_pool3d(x, (min(2, x.shape[2]), 2, 2), ceil_mode=True)


def upsample(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
    """Twice as large, by the nearest neighbour, and of the same type: CUDA's autocast would make it float32."""
    with without_autocast(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")


class PooledConv(Conv):
    """pool(conv(x)), 3x3 or 3x3x3."""

    def forward(self, x: Float[Tensor, "N i ..."]) -> Float[Tensor, "N o ..."]:
        odd = [size % 2 == 1 for size in x.shape[2:]]
        if not _folded or (x.ndim == 5 and any(odd[1:])):  # a row or column that 3D pools by itself
            return pool(super().forward(x))
        weight = self.normalized()
        if x.ndim == 4:
            return F.conv2d(x, _summed(weight, 2, 3) / 4, self.bias, stride=2, padding=1)
        if not odd[0]:
            return F.conv3d(x, _summed(weight, 2, 3, 4) / 8, self.bias, stride=2, padding=1)
        y = F.conv3d(x, _summed(weight, 3, 4) / 4, self.bias, stride=(1, 2, 2), padding=1)
        return F.avg_pool3d(y, (min(2, y.shape[2]), 1, 1), ceil_mode=True)


class UpsampledConv(Conv):
    """conv(upsample(x)), 1x1 or 3x3, without a bias."""

    def forward(self, x: Float[Tensor, "N i H W"]) -> Float[Tensor, "N o h w"]:
        if not _folded:
            return super().forward(upsample(x))
        if self.padding == (0, 0):
            return upsample(super().forward(x))
        kernel = _summed(self.normalized(), 2, 3).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


def _summed(weight: Float[Tensor, "o i ..."], *axes: int) -> Float[Tensor, "o i ..."]:
    """Sums of every two neighbours along some axes, zeros beyond the ends: three become four."""
    for axis in axes:
        others = [0, 0] * (weight.ndim - 1 - axis)
        weight = F.pad(weight, [*others, 0, 1]) + F.pad(weight, [*others, 1, 0])
    return weight

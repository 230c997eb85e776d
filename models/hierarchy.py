"""The views of a video: x^l = f_s(f_t(x^{l+1})) (Sec. 2)."""

import torch
import torch.nn.functional as F
from jaxtyping import Num
from torch import Tensor


def f_s(x: Num[Tensor, "B T C H W"], size: int) -> Num[Tensor, "B T C {size} {size}"]:
    """Spatial bilinear downsampling, antialiased, to `size` pixels; uint8 gives uint8, rounded by torch's kernel.

    PAPER: the kernel is not named; torch's, whose uint8 result is PIL's to one grey level. It is the only one here:
    the pyramid's views and the matching discriminator's input come from this function.
    """
    if x.shape[-1] == size:
        return x
    frames = x.flatten(0, 1)
    if not x.is_floating_point():
        frames = frames.contiguous(memory_format=torch.channels_last)  # torch's fast uint8 path
    small = F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.unflatten(0, x.shape[:2])


def f_t(x: Num[Tensor, "B T C H W"], factor: int) -> Num[Tensor, "B t C H W"]:
    """Temporal subsampling: frames 0, K_T, 2 K_T, …"""
    return x[:, ::factor]

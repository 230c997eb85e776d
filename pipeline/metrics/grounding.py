"""Whether a level kept to its condition: the views of its samples against what they were made from (Eq. 3)."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.hierarchy import f_s, f_t

PEAK = 255.0
HIGHEST_DB = 100.0  # of two videos without any difference; one grey level in one of 50,000 values is 95 dB


def psnr(a: UInt8[Tensor, "B T C H W"], b: UInt8[Tensor, "B T C H W"]) -> Float[Tensor, " B"]:
    """Peak signal to noise ratio of each pair of videos over all its values, in dB, at most 100."""
    error = (a.double() - b.double()).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(PEAK**2 / error)).clamp_max(HIGHEST_DB)


def grounding_psnr(samples: UInt8[Tensor, "B T C H W"], condition: UInt8[Tensor, "B t C h w"]) -> Float[Tensor, " B"]:
    """PSNR between f_s(f_t(sample)) and the condition it was generated from, for each sample, in dB.

    Raises ValueError where the shapes are not two views of one video.
    """
    factor, rest = divmod(samples.shape[1], condition.shape[1])
    if len(samples) != len(condition) or rest or samples.shape[-1] % condition.shape[-1]:
        raise ValueError(f"{tuple(condition.shape)} is no view of {tuple(samples.shape)}")
    return psnr(f_s(f_t(samples, factor), condition.shape[-1]), condition)

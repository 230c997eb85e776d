"""Power spectrum density of frames: whether samples blur, and whether they do so over time (App. D)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def power_spectrum(frames: UInt8[Tensor, "*N 3 S S"]) -> Float[Tensor, "*N bins"]:
    """The radially averaged power spectrum of the grey frames in [0, 1]: |DFT|^2 / S^2, for 0 … S/2 cycles a frame.

    Bin k averages the frequencies whose length rounds to k; those beyond S/2, in the corners, belong to no bin.
    PAPER: neither window nor colour is named; no window, luma.
    """
    size = frames.shape[-1]
    weights = torch.tensor(_GREY, dtype=torch.float64)
    grey = torch.einsum("...chw,c->...hw", frames.double() / 255, weights)
    power = torch.fft.fft2(grey).abs().square() / size**2
    cycles = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    radius = torch.hypot(cycles[:, None], cycles[None, :]).round().long().flatten()
    bins = size // 2 + 1
    inside = radius < bins
    radius, power = radius[inside], power.flatten(-2)[..., inside]
    sums = torch.zeros(*power.shape[:-1], bins, dtype=torch.float64).index_add_(-1, radius, power)
    return sums / torch.bincount(radius, minlength=bins)


def frame_spectra(videos: UInt8[Tensor, "B T 3 S S"], frames: Sequence[int]) -> Float[Tensor, "B F bins"]:
    """The spectra of chosen frames, counted from 1 as in the paper."""
    return power_spectrum(videos[:, [frame - 1 for frame in frames]])

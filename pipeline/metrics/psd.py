"""Power spectrum density of frames: whether samples blur, and whether they do so over time (App. D)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
SET_VIDEOS = 600  # at most in each set of spectra (App. D)


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


class Spectra(nn.Module):
    """The mean spectra of sets of videos seen a few at a time; memory does not grow with their number.

    Videos are dealt out to the sets in turn, the first SET_VIDEOS to each.
    """

    _n: Tensor
    _sum: Tensor

    def __init__(self, frames: Sequence[int], size: int, sets: int) -> None:
        """frames: from 1. size: of a frame, in pixels."""
        super().__init__()
        self.frames = tuple(frames)
        self.register_buffer("_n", torch.zeros(sets, dtype=torch.float64))
        self.register_buffer("_sum", torch.zeros(sets, len(self.frames), size // 2 + 1, dtype=torch.float64))

    def update(self, videos: UInt8[Tensor, "B T 3 S S"], first: int = 0) -> None:
        """Add some videos; `first` is the place of the first of them in its set."""
        videos = videos[: max(len(self._n) * SET_VIDEOS - first, 0)]
        if not len(videos) or not self.frames:
            return
        chosen = torch.arange(first, first + len(videos)) % len(self._n)
        self._n.index_add_(0, chosen, torch.ones(len(videos), dtype=torch.float64))
        self._sum.index_add_(0, chosen, frame_spectra(videos, self.frames))

    def over_sets(self) -> tuple[Float[Tensor, "F bins"], Float[Tensor, "F bins"]]:
        """The mean and the standard deviation, over the sets, of a set's mean spectrum.

        Raises ValueError where a set is empty. The deviation (N - 1) of one set is 0.
        """
        if not self._n.all():
            raise ValueError(f"{int(self._n.sum())} videos cannot make {len(self._n)} sets")
        means = self._sum / self._n[:, None, None]
        deviation = means.std(dim=0) if len(means) > 1 else torch.zeros_like(means[0])
        return means.mean(dim=0), deviation

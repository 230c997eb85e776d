"""How much moves: the difference from each frame to the next, by time step."""

from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def frame_differences(videos: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B steps"]:
    """The mean of |frame t+1 - frame t| over pixels and channels, in grey levels, for T - 1 steps.

    A frame at a time: in wider numbers all of them would take twelve times the videos' memory.
    """
    sums = [
        [(after.short() - before.short()).abs().sum(dtype=torch.int64) for before, after in pairwise(video)]
        for video in videos
    ]
    steps = torch.tensor(sums, dtype=torch.float64).view(len(videos), videos.shape[1] - 1)
    return steps / prod(videos.shape[2:])


class Motion(nn.Module):
    """Mean and deviation of the frame differences of videos seen a few at a time."""

    _n: Tensor
    _sum: Tensor
    _squares: Tensor

    def __init__(self, frames: int) -> None:
        """frames: the first ones of each video count; of one frame, nothing is measured."""
        super().__init__()
        self.register_buffer("_n", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_sum", torch.zeros(frames - 1, dtype=torch.float64))
        self.register_buffer("_squares", torch.zeros(frames - 1, dtype=torch.float64))

    def update(self, videos: UInt8[Tensor, "B T 3 H W"]) -> None:
        """Add some videos."""
        differences = frame_differences(videos[:, : len(self._sum) + 1])
        self._n += len(videos)
        self._sum += differences.sum(dim=0)
        self._squares += differences.square().sum(dim=0)

    def by_step(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """By time step, the mean over videos and their standard deviation (N - 1; 0 of one video)."""
        mean = self._sum / self._n
        scatter = (self._squares - self._n * mean.square()).clamp_min(0)  # rounding
        return mean, (scatter / (self._n - 1).clamp_min(1)).sqrt()

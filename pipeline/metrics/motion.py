"""How much moves: the difference from each frame to the next, by time step."""

from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


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

"""Which temporal windows of a video exist: index arithmetic, pure and apart from any file.

`factors` holds K_T between successive views, lowest first: a video with views of 12, 24 and 48 frames has factors
(2, 2).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def start_in_view(start: int, factors: Sequence[int], view: int) -> int:
    """The frame of view `view` (from 1) shown together with frame `start` of the lowest view."""
    return start * math.prod(factors[: view - 1])


def windows_of_videos(
    n_frames: Int64[np.ndarray, " videos"], factors: Sequence[int], level: int, window: int
) -> Int64[np.ndarray, " videos"]:
    """How many windows of each video a level can be trained on; window k starts at frame k of the lowest view.

    n_frames: of the highest view that `factors` counts. For windows of the samples of level l-1 give their frames
        and only the factors up to view l-1.
    window: frames of the level's condition, view level-1 (level 1: of view 1 itself).

    A window counts only if it exists in full in every view, so the last windows of view 1 may lack frames above. 0
    marks the videos that are too short to be trained on.
    """
    span = window * math.prod(factors[max(level - 2, 0) :])
    return np.where(n_frames < span, 0, (n_frames - span) // math.prod(factors) + 1)


def choose_start(uniform: float, starts: int) -> int:
    """The window that a uniform number in [0, 1) chooses among `starts` windows."""
    if not 0 <= uniform < 1 or starts < 1:
        raise ValueError(f"expected a number in [0, 1) and at least one window, not {uniform} and {starts}")
    return int(uniform * starts)

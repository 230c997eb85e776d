import numpy as np
import pytest

from pipeline.data.windows import choose_start, start_in_view, windows_of_videos

FACTORS = (2, 3)  # views of n, 2n and 6n frames


def window_starts(n_frames: int, factors: tuple[int, ...], level: int, window: int) -> int:
    return windows_of_videos(np.array([n_frames]), factors, level, window).item()


def test_starts_are_the_same_moment_in_every_view():
    assert [start_in_view(2, FACTORS, view) for view in (1, 2, 3)] == [2, 4, 12]


@pytest.mark.parametrize(
    ("n_frames", "level", "window", "starts"),
    [
        (24, 1, 4, 1),  # 4 frames of view 1 are 24 of view 3: only start 0
        (29, 1, 4, 1),
        (30, 1, 4, 2),
        (23, 1, 4, 0),
        (24, 2, 2, 3),  # 2 frames of view 1 are 12 of view 3: starts 0, 6, 12
        (23, 2, 2, 2),
        (24, 3, 2, 4),  # 2 frames of view 2 are 6 of view 3: starts 0, 6, 12, 18
        (24, 3, 3, 3),  # 9 of view 3: starts 0, 6, 12; 18 would end at 27
        (27, 3, 3, 4),
        (0, 3, 1, 0),
    ],
)
def test_windows_counted_by_hand(n_frames, level, window, starts):
    assert window_starts(n_frames, FACTORS, level, window) == starts


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_counted_by_trying_every_start(level, window):
    for n_frames in range(40):
        condition = max(level - 1, 1)
        per_frame = {1: 6, 2: 3}[condition]  # frames of view 3 from one of the condition to the next
        fitting = [k for k in range(40) if 6 * k + window * per_frame <= n_frames]
        assert window_starts(n_frames, FACTORS, level, window) == len(fitting)


def test_windows_of_generated_conditions_need_their_own_frames_alone():
    # Samples of level 2 have 8 frames, four of view 1: windows of 4 for level 3 start at 0, 2 and 4.
    assert window_starts(8, FACTORS[:1], 3, 4) == 3
    assert window_starts(4, (), 2, 3) == 2


def test_windows_of_videos_mark_the_short_ones():
    assert windows_of_videos(np.array([24, 5, 30]), FACTORS, 1, 4).tolist() == [1, 0, 2]


def test_a_uniform_number_chooses_every_start():
    assert [choose_start(u, 4) for u in (0.0, 0.249, 0.25, 0.5, 0.999999)] == [0, 0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least one window"):
        choose_start(0.5, 0)

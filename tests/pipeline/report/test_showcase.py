from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.report.showcase import choose_rows, real_partners


def reader(labels, frames) -> Any:
    return SimpleNamespace(labels=np.array(labels), n_frames=np.array(frames))


def test_a_sample_stands_beside_a_real_clip_of_its_class_held_out_where_there_is_one():
    held_out, train = reader([0, 0, 2], [9, 9, 3]), reader([0, 1, 2], [9, 9, 9])
    partners = real_partners(np.array([0, 0, 0, 1, 2, 3]), (held_out, train), frames=8)
    assert [pair and (pair[0] is held_out, pair[1]) for pair in partners] == [
        (True, 0),
        (True, 1),
        (True, 0),
        (False, 1),
        (False, 2),  # the held-out one is too short
        None,
    ]


def test_without_classes_any_long_clip_will_do():
    partners = real_partners(np.array([-1, -1]), (reader([-1, -1], [3, 9]),), frames=8)
    assert [pair and pair[1] for pair in partners] == [1, 1]


def test_rows_show_every_class_before_one_twice():
    assert choose_rows(np.array([1, 1, 0, 2]), 4) == [2, 0, 3, 1]

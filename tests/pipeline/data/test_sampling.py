import numpy as np

from pipeline.data.sampling import generator, spread


def draw(*place):
    return generator(*place).standard_normal(4).tolist()


def test_a_draw_depends_on_its_place_alone():
    place = (3, 1, "real", 7, 5)
    assert draw(*place) == draw(*place)
    others = [
        (4, 1, "real", 7, 5),
        (3, 2, "real", 7, 5),
        (3, 1, "fake", 7, 5),
        (3, 1, "real", 8, 5),
        (3, 1, "real", 7, 6),
    ]
    assert all(draw(*other) != draw(*place) for other in others)


def test_long_draws_of_neighbours_do_not_overlap():
    first = generator(0, 1, "real", 0, 0).integers(0, 2**63, 10_000)
    second = generator(0, 1, "real", 0, 1).integers(0, 2**63, 10_000)
    assert not set(first.tolist()) & set(second.tolist())


def test_spread_keeps_proportions():
    assert spread(np.array([2, 1, 1]), 8).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert np.bincount(spread(np.array([1, 1, 1]), 8)).tolist() == [3, 3, 2]
    assert spread(np.array([0, 5]), 3).tolist() == [1, 1, 1]

"""Kernel distance, precision and recall against closed forms and loops over pairs."""

import numpy as np
import pytest
import torch

from pipeline.metrics import pairwise
from pipeline.metrics.pairwise import kernel_distance, share_inside


@pytest.fixture(autouse=True, params=[40, 2**25])
def _in_parts(request, monkeypatch):
    monkeypatch.setattr(pairwise, "BLOCK_PAIRS", request.param)


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_kernel_distance_by_hand():
    # One dimension, (x y + 1)^3. {0, 1}: 1. {1, 2}: 27. Across: 1, 1, 8, 27.
    a, b = torch.tensor([[0.0], [1]]), torch.tensor([[1.0], [2]])
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * 37 / 4)


def test_kernel_distance_of_every_pair_in_turn():
    a, b = normal(13, 5, 0), normal(17, 5, 1) * 1.5 + 0.3
    x, y = a.double().numpy(), b.double().numpy()

    def mean(u, v, *, same: bool) -> float:
        pairs = [(i, j) for i in range(len(u)) for j in range(len(v)) if not (same and i == j)]
        return float(np.mean([(np.dot(u[i], v[j]) / 5 + 1) ** 3 for i, j in pairs]))

    expected = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_that_of_moments_and_unbiased():
    """In closed form: the kernel is 1 + 3 g + 3 g^2 + g^3, whose means are products of the first three moments."""
    d, shift = 3, 0.5
    moments = 3 * d * shift**2 / d  # of N(0, 1) and N(shift, 1): |m|^2, |M2 - M2'|^2, |M3 - M3'|^2
    second = d * shift**4 + d * (d - 1) * shift**4
    third = d * (3 * shift + shift**3) ** 2 + d * (d - 1) * (3 * (shift + shift**3) ** 2)
    third += d * (d - 1) * (d - 2) * shift**6
    expected = moments + 3 * second / d**2 + third / d**3
    found = [kernel_distance(normal(40, d, 2 * i), normal(40, d, 2 * i + 1) + shift) for i in range(300)]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / 300**0.5
    same = [kernel_distance(normal(40, d, 2 * i), normal(40, d, 2 * i + 1)) for i in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 300**0.5


def test_shares_by_hand():
    # The balls about 0, 1, 2, 3, 10 reach their third neighbours: 3, 2, 2, 3, 9.
    of = torch.tensor([0.0, 1, 2, 3, 10])[:, None]
    points = torch.tensor([-3.0, -3.1, 6, 6.5, 19, 19.1])[:, None]
    assert share_inside(points, of) == pytest.approx(4 / 6)
    assert share_inside(torch.tensor([[4.0], [6]]), torch.tensor([[0.0], [5]])) == 1  # one neighbour each, 5 away
    assert share_inside(torch.tensor([[-5.1], [10.1]]), torch.tensor([[0.0], [5]])) == 0


def test_shares_of_every_pair_in_turn():
    a, b = normal(30, 4, 2), normal(25, 4, 3) * 0.6 + 0.4

    def share(points, of) -> float:
        radii = [sorted(np.linalg.norm(one - other) for other in of)[3] for one in of]
        return float(np.mean([any(np.linalg.norm(p - q) <= r for q, r in zip(of, radii, strict=True)) for p in points]))

    x, y = a.double().numpy(), b.double().numpy()
    for one, other, u, v in ((a, b, x, y), (b, a, y, x)):
        assert 0 < share(u, v) < 1
        assert share_inside(one, other) == pytest.approx(share(u, v), rel=1e-12)


def test_precision_and_recall_part_blur_from_collapse():
    real = normal(200, 4, 4)
    collapsed, far = real[:1] + 1e-3 * normal(200, 4, 5), real + 100
    assert share_inside(collapsed, real) == 1 and share_inside(real, collapsed) < 0.05
    assert share_inside(far, real) == share_inside(real, far) == 0
    assert share_inside(real, real) == 1


def test_one_vector_has_no_pair():
    for measure in (kernel_distance, share_inside):
        with pytest.raises(ValueError, match="at least 2 videos"):
            measure(normal(3, 2, 0), normal(1, 2, 1))

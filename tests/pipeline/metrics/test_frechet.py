"""The Frechet distance against closed forms, and the streaming moments against numpy."""

import numpy as np
import pytest
import torch

from pipeline.metrics.frechet import Moments, frechet_distance


def moments(x: torch.Tensor, part: int = 7) -> Moments:
    found = Moments(x.shape[1])
    for some in x.split(part):
        found.update(some)
    return found


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_streaming_moments_are_numpys_far_from_zero():
    x = normal(101, 6, 0) + 1e4
    found = moments(x)
    assert found.count == 101
    np.testing.assert_allclose(found.mean.numpy(), x.double().mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.numpy().astype(np.float64).T), rtol=1e-9, atol=1e-12)


def test_two_points_each_in_one_dimension():
    # {0, 2} and {5, 11}: means 1 and 8, variances 2 and 18: 49 + (sqrt 18 - sqrt 2)^2 = 49 + 8
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [11.0]])
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(57, rel=1e-12)


def test_gaussians_whose_covariances_do_not_commute():
    # In two dimensions tr (AB)^1/2 = sqrt(tr AB + 2 sqrt det AB).
    a, b = (
        normal(50, 2, 1) @ torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        normal(60, 2, 2) @ torch.tensor([[3.0, 0], [1, 1]]),
    )
    ma, mb = moments(a), moments(b + 4)
    cov_a, cov_b = np.cov(a.double().numpy().T), np.cov((b + 4).double().numpy().T)
    ab = cov_a @ cov_b
    mean = np.sum((a.double().mean(0) - (b + 4).double().mean(0)).numpy() ** 2)
    expected = mean + np.trace(cov_a + cov_b) - 2 * np.sqrt(np.trace(ab) + 2 * np.sqrt(np.linalg.det(ab)))
    assert frechet_distance(ma, mb) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [300, 9])
def test_identical_sets_give_nothing_at_any_rank(n):
    m = moments(normal(n, 64, 3))
    assert frechet_distance(m, m) <= 1e-9 * m.covariance.trace().item()


def test_rank_deficient_sets_in_a_plane():
    # Four points on the first axis and four on the second of 40: tr of the cross term is 0.
    a, b = torch.zeros(4, 40), torch.zeros(4, 40)
    a[:, 0] = torch.tensor([-3.0, -1, 1, 3])  # variance 20/3
    b[:, 1] = torch.tensor([-1.0, -1, 1, 1])  # variance 4/3
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(8, rel=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match="at least 2"):
        _ = moments(normal(1, 3, 0)).covariance
    with pytest.raises(ValueError, match="not finite"):
        moments(torch.tensor([[float("nan"), 1.0]]))

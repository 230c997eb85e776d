"""The Frechet distance against closed forms."""

import numpy as np
import pytest
import torch

from pipeline.metrics.frechet import frechet_distance


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_two_points_each_in_one_dimension():
    # {0, 2} and {5, 11}: means 1 and 8, variances 2 and 18: 49 + (sqrt 18 - sqrt 2)^2 = 49 + 8
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [11.0]])
    assert frechet_distance(a, b) == pytest.approx(57, rel=1e-12)


def test_gaussians_whose_covariances_do_not_commute():
    # In two dimensions tr (AB)^1/2 = sqrt(tr AB + 2 sqrt det AB).
    a, b = (
        normal(50, 2, 1) @ torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        normal(60, 2, 2) @ torch.tensor([[3.0, 0], [1, 1]]),
    )
    cov_a, cov_b = np.cov(a.double().numpy().T), np.cov((b + 4).double().numpy().T)
    ab = cov_a @ cov_b
    mean = np.sum((a.double().mean(0) - (b + 4).double().mean(0)).numpy() ** 2)
    expected = mean + np.trace(cov_a + cov_b) - 2 * np.sqrt(np.trace(ab) + 2 * np.sqrt(np.linalg.det(ab)))
    assert frechet_distance(a, b + 4) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d", "share"), [(300, 64, 1e-6), (1300, 400, 1e-6), (9, 64, 1e-4), (100, 1024, 1e-4)])
def test_identical_sets_give_nothing_at_any_rank(n, d, share):
    x = normal(n, d, 3)
    assert frechet_distance(x, x.flip(0)) <= share * x.double().var(dim=0).sum().item()


def test_gaussians_in_closed_form_in_many_dimensions():
    # Covariances Q diag(p) Q' and Q diag(q) Q' of points +-Q_i: |shift|^2 + sum (sqrt p - sqrt q)^2.
    d = 20
    q, _ = torch.linalg.qr(normal(d, d, 7).double())
    p, r, shift = torch.arange(1.0, d + 1).double(), torch.arange(d, 0.0, -1).double() / 3, torch.full((d,), 2.0)
    scale = ((2 * d - 1) / 2) ** 0.5  # of +-x among 2 d points: variance 2 x^2 / (2 d - 1)

    def points(variances):
        x = q.T * variances.sqrt()[:, None] * scale
        return torch.cat([x, -x])

    expected = 4 * d + (p.sqrt() - r.sqrt()).square().sum().item()
    a, b = points(p), points(r) + shift
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_rank_deficient_sets_in_a_plane():
    # Four points on the first axis and four on the second of 40: tr of the cross term is 0.
    a, b = torch.zeros(4, 40), torch.zeros(4, 40)
    a[:, 0] = torch.tensor([-3.0, -1, 1, 3])  # variance 20/3
    b[:, 1] = torch.tensor([-1.0, -1, 1, 1])  # variance 4/3
    assert frechet_distance(a, b) == pytest.approx(8, rel=1e-9)


def test_one_vector_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(normal(1, 3, 0), normal(2, 3, 0))

"""The Frechet distance against closed forms, and the streaming moments against numpy."""

import numpy as np
import pytest
import torch

from pipeline.metrics.frechet import Moments, frechet_distance, frechet_of_sets


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


@pytest.mark.parametrize(("n", "d", "share"), [(300, 64, 1e-6), (1300, 400, 1e-6), (9, 64, 1e-4), (100, 1024, 1e-4)])
def test_identical_sets_give_nothing_at_any_rank(n, d, share):
    x = normal(n, d, 3)
    one, other = moments(x, 7), moments(x.flip(0), 11)  # the same set, seen otherwise
    trace = one.covariance.trace().item()
    assert frechet_distance(one, other) <= share * trace
    assert frechet_of_sets(x, x.flip(0)) <= share * trace


@pytest.mark.parametrize(("n", "m"), [(5, 9), (40, 30)])
def test_sets_held_whole_give_what_their_moments_do(n, m):
    a, b = normal(n, 24, 5) * 2 + 1, normal(m, 24, 6)
    assert frechet_of_sets(a, b) == pytest.approx(frechet_distance(moments(a), moments(b)), rel=1e-9)


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
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-10)
    assert frechet_of_sets(a, b) == pytest.approx(expected, rel=1e-10)


def test_memory_does_not_grow_with_the_number_of_videos():
    found = moments(normal(10, 8, 0))
    sizes = {name: tensor.shape for name, tensor in found.state_dict().items()}
    found.update(normal(5000, 8, 1))
    assert {name: tensor.shape for name, tensor in found.state_dict().items()} == sizes
    assert all(tensor.dtype in (torch.float64, torch.int64) for tensor in found.state_dict().values())


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
    with pytest.raises(ValueError, match="at least 2"):
        frechet_of_sets(normal(1, 3, 0), normal(2, 3, 0))
    with pytest.raises(ValueError, match="not finite"):
        frechet_of_sets(torch.full((2, 3), float("inf")), normal(2, 3, 0))

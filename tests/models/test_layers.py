import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.layers import Conv, Embedding, Linear, power_iteration
from models.norm import ConditionalBatchNorm, global_moments


@pytest.mark.parametrize("layer", [Linear(7, 5), Conv(3, 6), Conv(3, 4, (3, 3, 3)), Embedding(9, 4)])
def test_sigma_is_the_largest_singular_value(layer):
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.normal_()
    for _ in range(200):
        power_iteration(layer)
    largest = np.linalg.svd(layer.weight.detach().flatten(1).double().numpy(), compute_uv=False)[0]
    normalized = layer.normalized().detach().flatten(1).double().numpy()
    assert np.allclose(normalized * largest, layer.weight.detach().flatten(1).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [Linear(7, 5), Linear(5, 7), Conv(3, 6), Conv(8, 4, (3, 1, 1)), Embedding(9, 4)])
def test_weights_begin_orthogonal_with_sigma_one(layer):
    matrix = layer.weight.detach().flatten(1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)
    assert torch.allclose(layer.normalized(), layer.weight, atol=1e-5)


def test_forward_moves_no_buffer():
    conv = Conv(3, 4)
    before = conv.u.clone(), conv.v.clone()
    conv(torch.randn(2, 3, 5, 5)).sum().backward()
    assert torch.equal(conv.u, before[0])
    assert torch.equal(conv.v, before[1])


def test_gradient_goes_through_sigma():
    torch.manual_seed(1)
    linear = Linear(4, 3, bias=False).double()
    u, v = linear.u.clone(), linear.v.clone()
    x = torch.randn(2, 4, dtype=torch.float64)

    def by_hand(weight):
        return x @ (weight / (u @ weight @ v)).T

    (ours,) = torch.autograd.grad(linear(x).square().sum(), linear.weight)
    weight = linear.weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_hand(weight).square().sum(), weight)
    assert torch.allclose(ours, expected)


def test_batch_norm_is_per_timestep_and_channel():
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(3, 4).double()
    x = torch.randn(5, 2, 3, 4, 4, dtype=torch.float64) * 3 + 7
    z = torch.randn(5, 4, dtype=torch.float64)
    a = x.numpy()
    mean = a.mean((0, 3, 4), keepdims=True)
    deviation = np.sqrt(a.var((0, 3, 4), keepdims=True) + 1e-5)
    gain = 1 + z.numpy() @ norm.gain.normalized().detach().numpy().T
    bias = z.numpy() @ norm.bias.normalized().detach().numpy().T
    expected = (a - mean) / deviation * gain[:, None, :, None, None] + bias[:, None, :, None, None]
    assert np.allclose(norm(x, z).detach().numpy(), np.maximum(expected, 0))


def test_stored_statistics_in_evaluation():
    norm = ConditionalBatchNorm(2, 1).eval()
    mean, variance = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[4.0, 1.0], [9.0, 16.0]])
    norm.stored = (mean, variance)
    x = mean[None, :, :, None, None].expand(3, 2, 2, 4, 4) + 6
    assert not norm(x - 12, torch.zeros(3, 1)).any()
    expected = (6 / (variance + 1e-5).sqrt())[None, :, :, None, None].expand_as(x)
    assert torch.allclose(norm(x, torch.zeros(3, 1)), expected)
    with pytest.raises(ValueError, match="statistics for 3 timesteps are needed, there are 2 timesteps"):
        norm(torch.zeros(3, 3, 2, 4, 4), torch.zeros(3, 1))


def test_moments_are_those_of_everything_at_once():
    torch.manual_seed(0)
    batches = torch.randn(6, 4, 2, 3, 5, 5) * 2 + 100
    mean, square = torch.stack([global_moments(batch) for batch in batches]).mean(0)
    variance = square - mean**2
    together = batches.flatten(0, 1).double().numpy()
    assert np.allclose(mean, together.mean((0, 3, 4)), rtol=1e-6)
    assert np.allclose(variance, together.var((0, 3, 4)), rtol=1e-4)


def test_a_convolution_keeps_the_size():
    for kernel in ((3, 3), (1, 1)):
        conv = Conv(2, 3, kernel, bias=True)
        x = torch.randn(1, 2, 6, 6)
        expected = F.conv2d(x, conv.weight, conv.bias, padding="same")
        assert torch.allclose(conv(x), expected, atol=1e-5)
    assert Conv(2, 3, (3, 1, 1))(torch.randn(1, 2, 5, 6, 6)).shape == (1, 3, 5, 6, 6)

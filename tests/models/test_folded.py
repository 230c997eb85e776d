"""One convolution beside a pooling or an upsampling is the two operations, gradients too, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import DiscriminatorConfig
from models.discriminator import Discriminator
from models.folded import PooledConv, UpsampledConv, unfolded
from models.layers import Conv


def same(layer: Conv, x: Tensor, expected: Tensor) -> None:
    of, along = (x, *layer.parameters()), torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * along).sum(), of, retain_graph=True)
    ours = layer(x)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-12)
    for gradients in zip(torch.autograd.grad((ours * along).sum(), of), wanted, strict=True):
        assert torch.allclose(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "size", [(8, 8), (2, 2), (7, 9), (4, 8, 8), (3, 8, 8), (1, 8, 8), (5, 6, 6), (2, 2, 2), (4, 3, 3), (3, 5, 6)]
)
def test_pooled_conv(size):
    torch.manual_seed(0)
    layer = PooledConv(3, 4, (3,) * len(size), bias=True).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    if len(size) == 2:
        expected = F.avg_pool2d(F.conv2d(x, layer.normalized(), layer.bias, padding=1), 2)
    else:  # along every axis an odd last place by itself
        expected = F.conv3d(x, layer.normalized(), layer.bias, padding=1)
        for axis in (2, 3, 4):
            expected = torch.stack([pair.mean(axis) for pair in expected.split(2, dim=axis)], dim=axis)
    same(layer, x, expected)
    with unfolded():
        same(layer, x, expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_upsampled_conv(kernel):
    torch.manual_seed(0)
    layer = UpsampledConv(3, 4, (kernel, kernel)).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.conv2d(large, layer.normalized(), padding=kernel // 2)
    same(layer, x, expected)
    with unfolded():
        same(layer, x, expected)


@pytest.mark.parametrize("size", [12, 20])
def test_a_discriminator_of_an_odd_size_on_its_way(size):
    torch.manual_seed(0)
    config = DiscriminatorConfig(channels=2, multipliers=(1, 2, 2))
    network = Discriminator(config, inputs=3, blocks_3d=2, classes=0).double()
    x = torch.randn(2, 5, 3, size, size, dtype=torch.float64)
    with unfolded():
        expected = network(x, None)
    assert torch.allclose(network(x, None), expected, rtol=0, atol=1e-10)

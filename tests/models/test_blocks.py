import torch
import torch.nn.functional as F

from models.blocks import ConvGRU, DiscriminatorBlock, GeneratorBlock, SeparableBlock
from models.generator import Residual


def test_convgru_against_a_plain_loop():
    torch.manual_seed(0)
    gru = ConvGRU(3).double()
    x = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)

    def conv(layer, v):
        sigma = layer.u @ layer.weight.flatten(1) @ layer.v
        return F.conv2d(v, layer.weight / sigma, layer.bias, padding=1)

    h = torch.zeros(2, 3, 5, 5, dtype=torch.float64)
    expected = []
    for t in range(4):
        both = torch.cat([h, x[:, t]], 1)
        u, r = torch.sigmoid(conv(gru.update, both)), torch.sigmoid(conv(gru.reset, both))
        c = torch.relu(conv(gru.candidate, torch.cat([r * h, x[:, t]], 1)))
        h = u * h + (1 - u) * c
        expected.append(h)
    assert torch.allclose(gru(x, torch.zeros(2, 1)), torch.stack(expected, 1))


def test_generator_block_shapes_and_skip():
    block = GeneratorBlock(4, 6, 3, upsample=True)
    out = block(torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3))
    assert out.shape == (2, 3, 6, 10, 10)
    same = GeneratorBlock(4, 4, 3, upsample=False)
    assert same.skip is None
    x = torch.randn(2, 3, 4, 5, 5)
    same.conv2.normalized = lambda: torch.zeros(4, 4, 3, 3)
    assert torch.equal(same(x, torch.randn(2, 3)), x)


def test_frames_are_independent_in_2d_blocks_and_not_in_separable_ones():
    torch.manual_seed(0)
    z = torch.randn(2, 3)
    x = torch.randn(2, 5, 4, 6, 6)
    changed = x.clone()
    changed[:, 0] += torch.randn(4, 6, 6)
    for block, reach in ((GeneratorBlock(4, 4, 3, upsample=False), 1), (SeparableBlock(4, 3), 2)):
        same = torch.isclose(block(x, z), block(changed, z)).flatten(2).all(2).all(0)
        assert same.tolist() == [t >= reach for t in range(5)]


def test_discriminator_block_pools_time_only_while_two_timesteps_are_left():
    block = DiscriminatorBlock(3, 4, dims=3, downsample=True, first=True)
    assert block(torch.randn(1, 3, 4, 8, 8)).shape == (1, 4, 2, 4, 4)
    assert block(torch.randn(1, 3, 1, 8, 8)).shape == (1, 4, 1, 4, 4)
    flat = DiscriminatorBlock(3, 4, dims=2, downsample=False, first=False)
    assert flat(torch.randn(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_residual_is_not_added_above_the_conditions_resolution():
    assert Residual(4, 8, 8).map is not None
    assert Residual(4, 16, 8).map is None
    assert Residual(4, 8, None).map is None


def test_residual_takes_the_nearest_pixels():
    residual = Residual(2, 2, 4)
    video = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 1, 3, 4, 4)
    assert residual.map is not None
    picked = video[..., ::2, ::2].flatten(0, 1)
    expected = residual.map(picked).view(1, 1, 2, 2, 2)
    assert torch.allclose(residual(torch.zeros(1, 1, 2, 2, 2), video), expected)

"""Gradients in float64 against finite differences, and every choice of layers on both levels."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from models.blocks import ConvGRU, SeparableBlock
from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View
from models.discriminator import Discriminators
from models.generator import Generator
from models.losses import discriminator_loss, generator_loss
from models.norm import ConditionalBatchNorm
from tests.models.level_configs import FIRST, SECOND

TINY = LevelConfig(
    level=2,
    view=View(frames=2, size=4),
    condition=View(frames=1, size=2),
    classes=2,
    generator=GeneratorConfig(
        channels=1, multipliers=(2,), temporal_layer="separable3d", last_unit_upsamples=True, noise=2, embedding=2
    ),
    discriminators=DiscriminatorConfig(channels=1, multipliers=(2, 2), frames=1),
)
SMALL_GRU = replace(TINY, generator=replace(TINY.generator, temporal_layer="convgru"))


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def given(config: LevelConfig, clips: int = 2):
    assert config.condition is not None
    condition = torch.rand(clips, config.condition.frames, 3, *[config.condition.size] * 2) * 2 - 1
    return torch.randn(clips, config.generator.noise), torch.arange(clips) % 2, condition


def check(network, function, *args, projected=False):
    """By every input and every parameter that asks for a gradient; `projected`: along random directions of them."""
    names, weights = zip(*network.named_parameters(), strict=True)

    def of(*values):
        assert len(values) == len(args) + len(names)
        return torch.func.functional_call(
            network, dict(zip(names, values[len(args) :], strict=True)), function(*values[: len(args)])
        )

    asked = [a.detach().requires_grad_() for a in args]
    values = (*asked, *(w.detach().requires_grad_() for w in weights))
    assert gradcheck(of, values, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=projected)


def test_batch_norm():
    check(ConditionalBatchNorm(2, 3), lambda x, z: (x, z), torch.randn(3, 2, 2, 2, 2), torch.randn(3, 3))


@pytest.mark.parametrize("block", [ConvGRU(2), SeparableBlock(2, 3)], ids=["convgru", "separable3d"])
def test_temporal_layers(block):
    check(block.double(), lambda x, z: (x, z), torch.randn(2, 3, 2, 3, 3), torch.randn(2, 3))


@pytest.mark.parametrize("config", [TINY, SMALL_GRU], ids=["separable3d", "convgru"])
def test_generator(config):
    noise, labels, condition = given(config)
    check(Generator(config), lambda z, c: (z, labels, c), noise, condition, projected=True)


def test_discriminators():
    _, labels, condition = given(TINY)
    frames = torch.tensor([[1], [0]])

    class Loss(torch.nn.Module):
        """All outputs side by side: gradcheck wants tensors."""

        def __init__(self):
            super().__init__()
            self.discriminators = Discriminators(TINY)

        def forward(self, x, c):
            return torch.cat(list(self.discriminators(x, c, labels, frames, None).values()), dim=1)

    check(Loss(), lambda x, c: (x, c), torch.rand(2, 2, 3, 4, 4) * 2 - 1, condition, projected=True)


@pytest.mark.parametrize("level", [FIRST, SECOND], ids=["level 1", "level 2"])
@pytest.mark.parametrize("temporal", ["convgru", "separable3d"])
@pytest.mark.parametrize("extras", [True, False], ids=["matching and projection", "neither"])
def test_every_choice_gives_a_video_scores_and_gradients(level, temporal, extras):
    config = replace(
        level,
        generator=replace(level.generator, temporal_layer=temporal),
        discriminators=replace(level.discriminators, matching=extras, projection=extras),
    )
    for window in (4, 2) if config.condition else (4,):  # frames of the condition: all, and a window
        noise, labels = torch.randn(2, 5), torch.tensor([0, 2])
        condition = torch.rand(2, window, 3, 8, 8) if config.condition else None
        generator, discriminators = Generator(config), Discriminators(config)
        video = generator(noise, labels, condition)
        assert video.shape == (2, window * config.factor, 3, config.view.size, config.view.size)
        frames = torch.tensor([[1, 0, 3], [2, 3, 0]])
        outputs = discriminators(video, condition, labels, frames, None)
        expected = ["spatial", "temporal", "matching"] if extras and config.condition else ["spatial", "temporal"]
        assert list(outputs) == expected
        assert (discriminators.spatial.projection is not None) == extras
        generator_loss(outputs).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
        discriminator_loss(outputs, {k: v.detach() for k, v in outputs.items()})

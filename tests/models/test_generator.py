import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.config import View
from models.generator import Generator
from models.layers import power_iteration
from models.unroll import recalibrate, use_statistics
from tests.models.level_configs import FIRST, SECOND


def inputs(config, batch=2, frames=None):
    torch.manual_seed(0)
    labels = torch.arange(batch) % config.classes if config.classes else None
    condition = None
    if config.condition is not None:
        condition = torch.rand(batch, frames or config.condition.frames, 3, *[config.condition.size] * 2) * 2 - 1
    return torch.randn(batch, config.generator.noise), labels, condition


@pytest.mark.parametrize("config", [FIRST, SECOND, replace(FIRST, classes=0), replace(SECOND, classes=0)])
def test_shapes_and_range(config):
    video = Generator(config)(*inputs(config))
    assert video.shape == (2, config.view.frames, 3, config.view.size, config.view.size)
    assert video.abs().max() <= 1


def test_the_length_follows_the_condition():
    assert Generator(SECOND)(*inputs(SECOND, frames=3)).shape[1] == 6


def test_first_sizes():
    assert FIRST.first_size == 4
    assert SECOND.first_size == 4
    paper = replace(FIRST, view=View(frames=24, size=32), generator=replace(FIRST.generator, multipliers=(8, 8, 4, 2)))
    assert paper.first_size == 4
    third = replace(
        SECOND, view=View(frames=48, size=256), generator=replace(SECOND.generator, multipliers=(8, 4, 4, 4, 2, 1))
    )
    assert third.first_size == 4


def test_residuals_stop_at_the_conditions_resolution():
    generator = Generator(SECOND)  # 4 -> 8 -> 16, conditioned on 8x8
    names = [name for name, _ in generator.named_parameters() if "residual" in name]
    assert names == [
        "units.0.residual_temporal.map.weight",
        "units.0.residual1.map.weight",
        "units.0.residual2.map.weight",
        "units.1.residual_temporal.map.weight",
        "units.1.residual1.map.weight",
    ]


def test_a_class_is_its_row_of_the_table_as_it_is():
    """Rows begin as long as z; spectral norm would undo a larger table."""
    torch.manual_seed(0)
    of_many = Generator(replace(FIRST, classes=500)).embedding
    assert of_many is not None and of_many.weight.square().mean().item() == pytest.approx(1, abs=0.1)
    generator, seen = Generator(FIRST), []
    generator.first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    noise, labels, _ = inputs(FIRST)
    assert generator.embedding is not None and labels is not None
    table = generator.embedding.weight.data.mul_(7)
    power_iteration(generator)
    generator(noise, labels, None)
    assert torch.equal(seen[0], torch.cat((noise, table[labels]), dim=1))


def test_every_parameter_learns():
    for config in (FIRST, SECOND):
        generator = Generator(config)
        (generator(*inputs(config)) * torch.randn(config.view.size)).sum().backward()
        for name, parameter in generator.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_an_upsampling_level_is_local_in_time():
    """Of two units the first one's temporal convolution comes before any residual; the second's reaches one frame."""
    generator = Generator(SECOND)
    noise, labels, condition = inputs(SECOND, frames=8)
    assert condition is not None
    use_statistics(generator, recalibrate(generator, [(noise, labels, condition)]))
    generator.eval()
    changed = condition.clone()
    changed[:, 4] *= -1  # output frames 8 and 9
    before, after = generator(noise, labels, condition), generator(noise, labels, changed)
    same = torch.isclose(before, after).flatten(2).all(2).all(0)
    assert same.tolist() == [t < 7 or t > 10 for t in range(16)]


FIRST_TANH = """
import torch
from models.generator import Generator
from models.i3d import I3D
from tests.models.level_configs import FIRST
tanh = torch.tanh
torch.tanh = lambda x: print(x.device, x.numel()) or tanh(x)
with torch.device("meta"):
    {network}
"""


@pytest.mark.parametrize("network", ["Generator(FIRST)", "I3D(400)"])
def test_one_thread_makes_the_first_call_of_vector_functions(network):
    """Two can leave half of the result with an error of 5e-5, too seldom to wait for it here."""
    root = Path(__file__).parents[2]
    code = FIRST_TANH.format(network=network)
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).split() == ["cpu", "1"]

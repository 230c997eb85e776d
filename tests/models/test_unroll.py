from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import LevelConfig, View
from models.generator import Generator
from models.norm import ConditionalBatchNorm
from models.unroll import reach, recalibrate, unroll, use_statistics
from tests.models.level_configs import FIRST, SECOND
from tests.models.test_generator import inputs


def test_statistics_of_one_pass_reproduce_the_training_pass():
    for config in (FIRST, SECOND):
        generator = Generator(config)
        batch = inputs(config, batch=4)
        trained = generator(*batch)
        use_statistics(generator, recalibrate(generator, [batch]))
        assert torch.allclose(unroll(generator.eval(), *batch), trained, atol=1e-4)


def test_statistics_have_the_length_in_use():
    """A level trained on windows unrolls over the whole condition with as many timesteps of statistics."""
    generator = Generator(SECOND)
    long = inputs(SECOND, frames=7)
    statistics = recalibrate(generator, [long, long])
    assert {value.shape[0] for value in statistics.values()} == {14}
    use_statistics(generator, statistics)
    assert unroll(generator.eval(), *long).shape[1] == 14
    with pytest.raises(ValueError, match="statistics for 8 timesteps"):
        unroll(generator, *inputs(SECOND, frames=4))


def test_recalibration_changes_nothing_else():
    generator = Generator(FIRST).eval()
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    recalibrate(generator, [inputs(FIRST)])
    assert not generator.training
    assert all(torch.equal(t, before[name]) for name, t in generator.state_dict().items())


def test_two_batches_are_averaged():
    generator = Generator(FIRST)
    first = inputs(FIRST, 4)
    second = (first[0].flip(0) + first[0], first[1], None)
    a, b, both = (recalibrate(generator, list(batches)) for batches in ([first], [second], [first, second]))
    name = "units.0.block1.norm1.mean"  # before any batch norm: plain features of the GRU
    assert torch.allclose(both[name], (a[name] + b[name]) / 2, atol=1e-6)


def calibrated(generator, *long):
    use_statistics(generator, recalibrate(generator, long))
    return generator.eval()


def deep() -> LevelConfig:
    """4/8x8 -> 8/32x32, in three units."""
    return replace(SECOND, view=View(frames=8, size=32), generator=replace(SECOND.generator, multipliers=(2, 1, 1)))


@pytest.mark.parametrize("config", [FIRST, SECOND], ids=["level 1", "level 2"])
def test_statistics_are_those_of_everything_that_entered_a_norm_in_200_passes(config):
    generator = Generator(config)
    entered = {name: [] for name, m in generator.named_modules() if isinstance(m, ConditionalBatchNorm)}
    for name in entered:
        norm = generator.get_submodule(name)
        norm.register_forward_pre_hook(lambda _, args, name=name: entered[name].append(args[0].numpy().copy()))
    torch.manual_seed(3)
    passes = [(torch.randn(2, 5), labels, c) for _, labels, c in [inputs(config)] for _ in range(200)]
    statistics = recalibrate(generator, passes)
    assert len(entered) == 2 * (4 if config is FIRST else 5) + 1
    for name, arrays in entered.items():
        together = np.concatenate(arrays).astype(np.float64)
        assert len(together) == 400
        variance = together.var((0, 3, 4))
        assert np.allclose(statistics[f"{name}.mean"], together.mean((0, 3, 4)), rtol=1e-5, atol=1e-6), name
        assert np.allclose(statistics[f"{name}.variance"], variance, rtol=1e-5, atol=1e-9), name


def test_a_level_trained_on_12_frames_unrolls_to_48_with_48_timesteps():
    generator = Generator(SECOND)
    assert generator(*inputs(SECOND, frames=6)).shape[1] == 12
    long = inputs(SECOND, frames=24)
    calibrated(generator, long)
    assert unroll(generator, *long).shape[1] == 48
    assert {len(m.stored[0]) for m in generator.modules() if isinstance(m, ConditionalBatchNorm) and m.stored} == {48}


@pytest.mark.parametrize("config", [SECOND, deep()], ids=["2 units", "3 units"])
def test_a_cut_is_felt_as_far_as_the_reach(config):
    generator = Generator(config)
    noise, labels, condition = inputs(config, frames=8)
    assert condition is not None
    calibrated(generator, (noise, labels, condition))
    whole = unroll(generator, noise, labels, condition)
    for norm in (m for m in generator.modules() if isinstance(m, ConditionalBatchNorm)):
        assert norm.stored is not None
        norm.stored = (norm.stored[0][:8], norm.stored[1][:8])
    cut = generator(noise, labels, condition[:, :4])
    differs = (whole[:, :8] - cut).abs().flatten(2).amax((0, 2)) > 1e-5
    units = len(config.generator.multipliers)
    assert reach(generator) == units
    assert differs.tolist() == [t >= 8 - units for t in range(8)]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 9, 20])
def test_pieces_are_the_whole(piece):
    config = deep()
    generator = Generator(config).double()
    noise, labels, condition = inputs(config, frames=9)
    assert condition is not None
    long = (noise.double(), labels, condition.double())
    calibrated(generator, long)
    whole = unroll(generator, *long)
    assert torch.allclose(unroll(generator, *long, piece=piece), whole, rtol=0, atol=1e-13)
    assert torch.equal(unroll(generator, *long), whole)  # the statistics are the whole's again


def test_pieces_need_the_wholes_statistics_and_no_convgru():
    long = inputs(SECOND, frames=7)
    generator = calibrated(Generator(SECOND), long)
    with pytest.raises(ValueError, match="statistics for 12 timesteps are needed, there are 14"):
        unroll(generator, *inputs(SECOND, frames=6), piece=2)
    recurrent = replace(SECOND, generator=replace(SECOND.generator, temporal_layer="convgru"))
    with pytest.raises(ValueError, match="a ConvGRU reaches back to the first frame"):
        unroll(calibrated(Generator(recurrent), long), *long, piece=2)

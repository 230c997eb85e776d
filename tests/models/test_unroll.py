import pytest
import torch

from models.generator import Generator
from models.unroll import recalibrate, unroll, use_statistics
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

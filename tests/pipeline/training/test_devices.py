"""What can be known of a GPU without one: a whole iteration on torch's meta device, which has no values.

A tensor left on the CPU meets one that is not and ends it; what would make the host wait for a GPU is refused.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.bench.clips import random_clips
from pipeline.training.step import Networks
from pipeline.workers import Workers
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import ALONE, TRAINING

META = torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Refuses to read a value back from the device, and copies to the CPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        if any(isinstance(value, torch.Tensor) and value.device == META for value in args):
            to = (kwargs or {}).get("device")
            assert "_local_scalar_dense" not in name and "nonzero" not in name, f"{name} reads a value back"
            assert to is None or torch.device(to) == META, f"{name} copies to the host"
        return function(*args, **(kwargs or {}))


def test_what_waits_is_refused():
    value = torch.ones(2, device=META)
    for waits in (value.cpu, value.sum().item, value.nonzero):
        with NoWaiting(), pytest.raises(AssertionError):
            waits()


@pytest.mark.parametrize("config", [FIRST, SECOND], ids=["level 1", "level 2"])
@pytest.mark.parametrize("switches", [{}, {"recompute": True, "accumulate": 2, "channels_last": True}])
def test_an_iteration_stays_on_its_device_and_waits_for_nothing(config, switches):
    window = (config.condition or config.view).frames
    networks = Networks(config, replace(TRAINING, **switches), seed=0, workers=Workers(device=META))
    real, fake = (random_clips(config, window, 4, ALONE.device, real=real) for real in (True, False))
    with NoWaiting():
        metrics = networks.discriminator_update(real, fake) | networks.generator_update(fake)
    assert {value.device for value in metrics.values()} == {META}
    for network in (networks.generator, networks.discriminators):
        assert {p.grad.device for p in network.parameters() if p.grad is not None} == {META}

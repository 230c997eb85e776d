from dataclasses import replace

import torch

from models.discriminator import Discriminators
from models.hierarchy import f_s
from tests.models.level_configs import FIRST, SECOND


def clips(config, n=2, frames=None):
    torch.manual_seed(0)
    frames = frames or config.view.frames
    x = torch.rand(n, frames, 3, config.view.size, config.view.size) * 2 - 1
    condition = None
    if config.condition is not None:
        condition = f_s(x[:, :: config.factor], config.condition.size)
    labels = torch.arange(n) % config.classes if config.classes else None
    return x, condition, labels, torch.tensor([[2, 0, 1]]).expand(n, 3)


def test_output_counts():
    """D_S gives one output a chosen frame; D_T and D_M one for each timestep that two 3D blocks leave of theirs."""
    outputs = Discriminators(SECOND)(*clips(SECOND), None)
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {
        "spatial": (2, 3),
        "temporal": (2, 2),  # 8 / 2 / 2
        "matching": (2, 1),  # 4 / 2 / 2
    }
    outputs = Discriminators(FIRST)(*clips(FIRST), None)
    # the second of two blocks is the last and does not pool
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {"spatial": (2, 3), "temporal": (2, 2)}


def test_without_classes_there_is_no_projection():
    config = replace(SECOND, classes=0)
    d = Discriminators(config)
    assert not [name for name, _ in d.named_parameters() if "projection" in name]
    assert d(*clips(config), None)["spatial"].shape == (2, 3)


def test_the_spatial_discriminator_sees_the_chosen_frames_by_themselves():
    d = Discriminators(FIRST)
    x, condition, labels, _ = clips(FIRST)
    frames = torch.tensor([[0, 1, 2], [3, 1, 0]])
    before = d(x, condition, labels, frames, None)["spatial"]
    changed = x.clone()
    changed[:, 3] = 0
    after = d(changed, condition, labels, frames, None)["spatial"]
    assert torch.isclose(before, after).tolist() == [[True] * 3, [False, True, True]]


def test_the_matching_discriminator_sees_the_pair():
    d = Discriminators(SECOND)
    x, condition, labels, frames = clips(SECOND)
    seen = []
    assert d.matching is not None
    assert condition is not None
    d.matching.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    d(x, condition, labels, frames, None)
    assert seen[0].shape == (2, 4, 6, 8, 8)
    assert torch.equal(seen[0][:, :, :3], condition)
    assert torch.allclose(seen[0][:, :, 3:], condition, atol=1e-6)  # real pairs agree
    noise = torch.rand(2, 4, 6, 8, 8)
    d(x, condition, labels, frames, noise)
    assert torch.allclose(seen[1], seen[0] + noise)

"""I3D: parameter counts written out from Szegedy et al.'s table, shapes, padding, seeds."""

import pytest
import torch

from models.i3d import I3D, _pad_same

# Per block: inputs, 1x1, 3x3 reduce, 3x3, 3x3 reduce (of the second), 3x3, pool projection.
TABLE = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def unit(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**3 + 2 * outputs  # with scale and shift of the batch norm


def block(inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> int:
    ones = unit(inputs, b0, 1) + unit(inputs, b1a, 1) + unit(inputs, b2a, 1) + unit(inputs, b3b, 1)
    return ones + unit(b1a, b1b, 3) + unit(b2a, b2b, 3)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_layer_by_layer():
    with torch.device("meta"):
        network = I3D(400)
    assert count(network.get_submodule("Conv3d_1a_7x7")) == unit(3, 64, 7)
    assert count(network.get_submodule("Conv3d_2b_1x1")) == unit(64, 64, 1)
    assert count(network.get_submodule("Conv3d_2c_3x3")) == unit(64, 192, 3)
    for name, widths in TABLE.items():
        assert count(network.get_submodule(f"Mixed_{name}")) == block(*widths), name
    assert count(network.logits) == 1024 * 400 + 400
    assert count(network) == 12_697_264


def test_names_of_the_pytorch_port():
    with torch.device("meta"):
        state = I3D(600).state_dict()
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_3b.b0.conv3d.weight"].shape == (64, 192, 1, 1, 1)
    assert state["Mixed_5c.b2b.bn.running_var"].shape == (128,)
    assert state["logits.conv3d.bias"].shape == (600,)
    assert not any("MaxPool" in name or "b3a" in name for name in state)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(224, 7, 2, (2, 3)), (112, 3, 2, (0, 1)), (9, 7, 2, (3, 3)), (5, 2, 2, (0, 1)), (8, 3, 1, (1, 1))],
)
def test_padding_is_tensorflows_same(size, kernel, stride, expected):
    x = torch.ones(1, 1, 1, 1, size)
    padded = _pad_same(x, (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    before, after = int(padded.argmax()), len(padded) - size - int(padded.argmax())
    assert (before, after) == expected


def test_features_shapes_and_refusals():
    network = I3D(7).eval()
    network.randomize(0)
    with torch.inference_mode():
        pooled, logits = network.features(torch.zeros(1, 9, 3, 224, 224))
    assert pooled.shape == (1, 1024) and logits.shape == (1, 7)
    with pytest.raises(ValueError, match="at least 9 frames"):
        network.features(torch.zeros(1, 8, 3, 224, 224))
    with pytest.raises(ValueError, match="224x224"):
        network.features(torch.zeros(1, 9, 3, 112, 112))


def test_random_weights_follow_the_seed_and_tell_videos_apart():
    a, b, c = I3D(50).eval(), I3D(50).eval(), I3D(50).eval()
    for network, seed in ((a, 3), (b, 3), (c, 4)):
        network.randomize(seed)
    assert torch.equal(a.state_dict()["Mixed_4c.b1b.conv3d.weight"], b.state_dict()["Mixed_4c.b1b.conv3d.weight"])
    assert not torch.equal(a.state_dict()["logits.conv3d.weight"], c.state_dict()["logits.conv3d.weight"])
    ramp = torch.linspace(-1, 1, 224).expand(1, 9, 3, 224, 224)
    steps = ramp.transpose(-1, -2).mul(9).sin()
    with torch.inference_mode():
        pooled, _ = a.features(torch.cat([ramp, steps]))
    assert pooled.std() > 0.05
    assert torch.corrcoef(pooled)[0, 1] < 0.9

"""From TensorFlow's names and layout to ours: a network written down as DeepMind's code names it, and back."""

import numpy as np
import pytest
import torch

from models.i3d import I3D
from pipeline.errors import UserError
from pipeline.metrics.convert import read_checkpoint, state_of_tensorflow

# Units of DeepMind's i3d.py in their order; the second 3x3 of Mixed_5b is called 0a there.
UNITS = {"Conv3d_1a_7x7": "Conv3d_1a_7x7", "Conv3d_2b_1x1": "Conv3d_2b_1x1", "Conv3d_2c_3x3": "Conv3d_2c_3x3"}
for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
    last = "Conv3d_0a_3x3" if block == "5b" else "Conv3d_0b_3x3"
    UNITS |= {
        f"Mixed_{block}/Branch_0/Conv3d_0a_1x1": f"Mixed_{block}.b0",
        f"Mixed_{block}/Branch_1/Conv3d_0a_1x1": f"Mixed_{block}.b1a",
        f"Mixed_{block}/Branch_1/Conv3d_0b_3x3": f"Mixed_{block}.b1b",
        f"Mixed_{block}/Branch_2/Conv3d_0a_1x1": f"Mixed_{block}.b2a",
        f"Mixed_{block}/Branch_2/{last}": f"Mixed_{block}.b2b",
        f"Mixed_{block}/Branch_3/Conv3d_0b_1x1": f"Mixed_{block}.b3b",
    }


@pytest.fixture(scope="module")
def network() -> I3D:
    """Random weights, every statistic of its batch norms another."""
    found, draw = I3D(600).eval(), torch.Generator().manual_seed(0)
    found.randomize(0)
    for name, value in found.state_dict().items():
        if name.endswith(("running_mean", "bn.bias", "logits.conv3d.bias")):
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
    return found


def theirs(network: I3D, scope: str) -> dict[str, np.ndarray]:
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    found: dict[str, np.ndarray] = {"global_step": np.array(7)}
    for name, ours in UNITS.items():
        found[f"{scope}{name}/conv_3d/w"] = state[f"{ours}.conv3d.weight"].transpose(2, 3, 4, 1, 0)
        for part, our_part in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            found[f"{scope}{name}/batch_norm/{part}"] = state[f"{ours}.bn.{our_part}"].reshape(1, 1, 1, 1, -1)
    found[f"{scope}Logits/Conv3d_0c_1x1/conv_3d/w"] = state["logits.conv3d.weight"].transpose(2, 3, 4, 1, 0)
    found[f"{scope}Logits/Conv3d_0c_1x1/conv_3d/b"] = state["logits.conv3d.bias"]
    return found


@pytest.mark.parametrize("scope", ["RGB/inception_i3d/", ""])
def test_a_checkpoint_becomes_the_network_that_it_was(network, scope):
    again = I3D(600).eval()
    missing = again.load_state_dict(state_of_tensorflow(theirs(network, scope)), strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    if not scope:
        return
    video = torch.rand(1, 9, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        for a, b in zip(network.features(video), again.features(video), strict=True):
            assert torch.equal(a, b)


def test_another_network_is_refused_by_its_first_wrong_variable(network):
    scope = "RGB/inception_i3d/"
    variables = theirs(network, scope)
    wrong = variables | {f"{scope}Conv3d_1a_7x7/conv_3d/w": np.zeros((7, 7, 7, 2, 64), np.float32)}  # of optical flow
    with pytest.raises(UserError, match=r"Conv3d_1a_7x7\.conv3d\.weight has shape \(64, 2, 7, 7, 7\), not \(64, 3,"):
        state_of_tensorflow(wrong)
    del variables[f"{scope}Mixed_4c/Branch_1/Conv3d_0b_3x3/batch_norm/beta"]
    with pytest.raises(UserError, match=r"Mixed_4c\.b1b\.bn\.weight is missing"):
        state_of_tensorflow(variables)
    with pytest.raises(UserError, match=r"Conv3d_1a_7x7\.conv3d\.weight is missing"):
        state_of_tensorflow({"dense/kernel": np.zeros((2, 2))})


def test_without_a_checkpoint_or_tensorflow_there_is_a_way_out(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    for name in ("model.ckpt", "model.ckpt.index"):
        with pytest.raises(UserError, match=r"pip install -e \"\.\[convert\]\""):
            read_checkpoint(tmp_path / name)

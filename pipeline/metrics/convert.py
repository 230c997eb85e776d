"""DeepMind's I3D checkpoints for TensorFlow as state dicts: other names, another order of dimensions.

The network was written with Sonnet: batch norm has a shift (beta), the moving mean and variance and no scale, which is
1 here; a kernel is [time, height, width, in, out]. The checkpoints of Kinetics-400 put a scope before every name, that
of Kinetics-600 has none.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.i3d import I3D
from pipeline.errors import UserError

SCOPE = "RGB/inception_i3d/"
_BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}
_PARTS = {
    "conv3d.weight": "conv_3d/w",
    "conv3d.bias": "conv_3d/b",
    "bn.bias": "batch_norm/beta",
    "bn.running_mean": "batch_norm/moving_mean",
    "bn.running_var": "batch_norm/moving_variance",
}


def tensorflow_name(name: str) -> str | None:
    """How TensorFlow calls a tensor of ours, without the scope; None where it has no such tensor."""
    unit, part = name.rsplit(".", 2)[0], ".".join(name.split(".")[-2:])
    if part not in _PARTS:
        return None
    if unit == "logits":
        return f"Logits/Conv3d_0c_1x1/{_PARTS[part]}"
    block, *branch = unit.split(".")
    path = f"{block}/{_BRANCHES[branch[0]]}" if branch else block
    if unit == "Mixed_5b.b2b":
        path = "Mixed_5b/Branch_2/Conv3d_0a_3x3"  # their slip of the pen, in every checkpoint
    return f"{path}/{_PARTS[part]}"


def state_of_tensorflow(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Our state dict from a checkpoint's variables; others than the network's own, such as an optimizer's, are left.

    Raises ValueError with the name of the first variable that is missing or has another shape.
    """
    scope = SCOPE if any(name.startswith(SCOPE) for name in variables) else ""
    logits = f"{scope}Logits/Conv3d_0c_1x1/conv_3d/b"
    if logits not in variables:
        raise ValueError(f"{logits} is missing")
    with torch.device("meta"):
        expected = I3D(variables[logits].size).state_dict()
    state = {}
    for name, tensor in expected.items():
        variable = tensorflow_name(name)
        if variable is None:
            if name.endswith("bn.weight"):
                state[name] = torch.ones(tensor.shape)
            continue  # and the counters of batch norms
        if scope + variable not in variables:
            raise ValueError(f"{scope}{variable} is missing")
        value = np.asarray(variables[scope + variable], np.float32)
        moved = value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 and name.endswith("weight") else value.reshape(-1)
        if moved.shape != tensor.shape:
            raise ValueError(f"{scope}{variable} has shape {value.shape}, which makes no {tuple(tensor.shape)}")
        state[name] = torch.from_numpy(np.ascontiguousarray(moved))
    return state


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The variables of a TensorFlow checkpoint, `path` with or without .index. UserError where TensorFlow lacks."""
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(f"{prefix.name}.index").is_file() and not prefix.is_file():
        raise UserError(f"{path}: no checkpoint; give the path before .index and .data-00000-of-00001")
    try:
        import tensorflow  # pyright: ignore[reportMissingModuleSource] - half a gigabyte that only this needs
    except ImportError as error:
        raise UserError(
            'convert-i3d: reading a checkpoint takes TensorFlow: `pip install -e ".[convert]"`, best in another '
            "environment; what it writes needs none"
        ) from error
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: no readable TensorFlow checkpoint: {str(error).splitlines()[0]}") from error

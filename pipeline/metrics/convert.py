"""DeepMind's I3D checkpoints for TensorFlow as state dicts: other names, another order of dimensions.

The network was written with Sonnet: batch norm has a shift (beta), the moving mean and variance and no scale, which is
1 here; a kernel is [time, height, width, in, out]. The checkpoints of Kinetics-400 put a scope before every name, that
of Kinetics-600 has none.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.i3d import I3D
from pipeline.errors import UserError
from pipeline.metrics.features import first_wrong

_VARIABLE = re.compile(
    r"(?:RGB/inception_i3d/)?(?:(?P<block>Mixed_\w+)/Branch_(?P<branch>\d)/|(?P<logits>Logits)/)?"
    r"(?P<unit>Conv3d_\w+_(?P<kernel>\dx\d))/(?:conv_3d|batch_norm)/(?P<part>\w+)"
)
_PARTS = {
    "w": "conv3d.weight",
    "b": "conv3d.bias",
    "beta": "bn.bias",
    "moving_mean": "bn.running_mean",
    "moving_variance": "bn.running_var",
}


def our_name(variable: str) -> str | None:
    """How we call a variable of the network; None for any other, such as an optimizer's."""
    found = _VARIABLE.fullmatch(variable)
    if found is None or found["part"] not in _PARTS:
        return None
    unit = "logits" if found["logits"] else found["unit"]
    if found["block"]:
        # By the kernel: what they call 0a and 0b differs between checkpoints for Mixed_5b.
        convolution = {"0": "", "3": "b"}.get(found["branch"], "a" if found["kernel"] == "1x1" else "b")
        unit = f"{found['block']}.b{found['branch']}{convolution}"
    return f"{unit}.{_PARTS[found['part']]}"


def state_of_tensorflow(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Our state dict from a checkpoint's variables. Raises UserError with our name of the first that is wrong."""
    state: dict[str, Tensor] = {}
    for variable, value in variables.items():
        name = our_name(variable)
        if name is not None:
            tensor = torch.from_numpy(np.asarray(value, np.float32))
            moved = tensor.permute(4, 3, 0, 1, 2) if tensor.ndim == 5 and name.endswith("weight") else tensor.flatten()
            state[name] = moved.contiguous()
            if name.endswith("bn.bias"):
                state[name.replace("bias", "weight")] = torch.ones_like(state[name])
    with torch.device("meta"):
        network = I3D(len(state.get("logits.conv3d.bias", ())))
    wrong = first_wrong(network, state)
    if wrong is not None:
        raise UserError(f"convert-i3d: not the RGB I3D: {wrong}")
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

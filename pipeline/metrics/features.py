"""I3D features of clips: weights from a file or seeded random ones, and the preprocessing of Sec. 5.1."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.i3d import I3D, MIN_FRAMES, SIZE
from pipeline.errors import UserError

BATCH = 4  # clips at a time: on a CPU more are no faster


@dataclass(frozen=True)
class FeatureNetwork:
    """An I3D that measures, and where its weights come from."""

    network: I3D
    weights: str  # the file's name, or "random, seed <n>"
    sha256: str | None  # of the file; None for random weights

    @property
    def random(self) -> bool:
        return self.sha256 is None


@dataclass(frozen=True)
class Features:
    """What an I3D says of some clips."""

    pooled: Float[Tensor, "N 1024"]
    logits: Float[Tensor, "N classes"]


def random_i3d(seed: int = 0, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network with seeded random weights. Its numbers are no FVD, FID or IS and may not be called so."""
    network = I3D(400)
    network.randomize(seed)
    return FeatureNetwork(network.to(device).eval(), f"random, seed {seed}", None)


def load_i3d(path: Path, classes: int, key: str, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network with the weights of `path`: a state dict of the PyTorch port, as .safetensors or saved by torch.

    Nothing is unpickled but tensors. Raises UserError with the parameter's `key` where the file is missing, is no
    state dict, or holds another network, named by its first wrong tensor.
    """
    if not path.is_file():
        raise UserError(f"{key}: {path}: no such file; give I3D weights, or null for a random I3D")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{key}: {path}: no readable state dict: {str(error).splitlines()[0]}") from error
    network = I3D(classes)
    wrong = _first_wrong(network, state)
    if wrong is not None:
        raise UserError(f"{key}: {path}: not an I3D of {classes} classes: {wrong}; give the PyTorch port's state dict")
    network.load_state_dict(state, strict=False)  # the counters of old batch norms may be missing
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FeatureNetwork(network.to(device).eval(), path.name, digest)


def _first_wrong(network: I3D, state: object) -> str | None:
    """What is wrong with the first tensor that is not the network's own, in the network's order."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, no mapping of tensors"
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            if not name.endswith("num_batches_tracked"):
                return f"{name} is missing"
        elif not isinstance(state[name], Tensor):
            return f"{name} is a {type(state[name]).__name__}, no tensor"
        elif state[name].shape != tensor.shape:
            return f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
    return next((f"{name} is unknown" for name in state if name not in expected), None)


def forth_and_back(frames: int, minimum: int = MIN_FRAMES) -> list[int]:
    """The frames to play so that there are at least `minimum`: 0 … n-1, then n-2 … 0, 1 …

    PAPER: Table 2's clips have 6 frames, and the I3D takes no fewer than 9.
    """
    if frames < 1:
        raise ValueError("a clip without frames")
    there = list(range(frames))
    period = there + there[-2:0:-1]
    return there if frames >= minimum else [period[t % len(period)] for t in range(minimum)]


def preprocess(clips: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B t 3 224 224"]:
    """uint8 frames as an I3D takes them: [-1, 1], 224 x 224 by bilinear interpolation, at least 9 of them."""
    frames = clips[:, forth_and_back(clips.shape[1])]
    x = frames.flatten(0, 1).float() / 127.5 - 1
    x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=False)
    return x.unflatten(0, frames.shape[:2])


@torch.inference_mode()
def extract(network: FeatureNetwork, clips: UInt8[Tensor, "B T 3 H W"]) -> Iterator[Features]:
    """The features of some clips, BATCH at a time and on the CPU."""
    device = next(network.network.parameters()).device
    for some in clips.split(BATCH):
        pooled, logits = network.network.features(preprocess(some.to(device)))
        yield Features(pooled.cpu(), logits.cpu())

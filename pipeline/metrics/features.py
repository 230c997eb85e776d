"""I3D features of clips: weights from a file or seeded random ones, and the preprocessing of Sec. 5.1."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from models.i3d import I3D, MIN_FRAMES, SIZE
from pipeline.errors import UserError
from pipeline.metrics.weights import sha256_of
from pipeline.workers import CPU

BATCH_CLIPS = 4  # at a time: on a CPU more are no faster
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what weights may be kept in
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FeatureNetwork:
    """An I3D that measures, and where its weights come from."""

    network: I3D
    weights: str  # the file's name, or "random, seed <n>"
    sha256: str | None  # of the file; None for random weights
    precision: Precision = "float32"
    device: torch.device = CPU  # that it was loaded on

    @property
    def random(self) -> bool:
        return self.sha256 is None

    @torch.inference_mode()
    def __call__(self, video: Float[Tensor, "B T 3 224 224"]) -> "Features":
        """The features of preprocessed clips, in float32 on the CPU. ValueError where they are not finite."""
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            features = Features(*(part.float().cpu() for part in self.network.features(video)))
        if not (torch.isfinite(features.pooled).all() and torch.isfinite(features.logits).all()):
            raise ValueError("features that are not finite: look for NaN in the network's weights")
        return features


@dataclass(frozen=True)
class Features:
    """What an I3D says of some clips."""

    pooled: Float[Tensor, "N pooled"]
    logits: Float[Tensor, "N classes"]


def random_i3d(seed: int = 0, device: torch.device = CPU) -> FeatureNetwork:
    """The network with seeded random weights. Its numbers are no FVD, FID or IS and may not be called so."""
    network = I3D(400)
    network.randomize(seed)
    return FeatureNetwork(_ready(network, device), f"random, seed {seed}", None, device=device)


def load_i3d(path: Path, classes: int, key: str, device: torch.device = CPU) -> FeatureNetwork:
    """The network with the weights of `path`: a state dict of the PyTorch port, as .safetensors or saved by torch.

    Nothing is unpickled but tensors. Raises UserError with the parameter's `key` where the file is missing, damaged, no
    state dict, or holds another network or values that are not finite, named by its first wrong tensor.
    """
    if not path.is_file():
        raise UserError(f"{key}: {path}: no such file; give I3D weights, or null for a random I3D")
    state = load_state(path, key)
    network = I3D(classes)
    wrong = first_wrong(network, state)
    if wrong is not None:
        raise UserError(f"{key}: {path}: not an I3D of {classes} classes: {wrong}; give the PyTorch port's state dict")
    network.load_state_dict(state, strict=False)  # the counters of old batch norms may be missing
    return FeatureNetwork(_ready(network, device), path.name, sha256_of(path), device=device)


def first_wrong(network: nn.Module, state: object) -> str | None:
    """What is wrong with the first tensor that is not the network's own, in the network's order."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, no mapping of tensors"
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            continue  # which old batch norms lack
        if name not in state:
            return f"{name} is missing"
        given = state[name]
        if not isinstance(given, Tensor) or given.is_nested or given.is_meta or given.layout != torch.strided:
            return f"{name} is no dense tensor"
        if given.shape != tensor.shape:
            return f"{name} has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
        if given.dtype not in REAL:
            return f"{name} is {given.dtype}, not floating point of 16 to 64 bits"
        if not torch.isfinite(given.float()).all():
            return f"{name} holds NaN or infinity"
    return next((f"{name} is unknown" for name in state if name not in expected), None)


def _ready(network: I3D, device: torch.device) -> I3D:
    """As it measures; on a CPU in the memory order that its convolutions are faster in."""
    order = torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format
    return network.to(device, memory_format=order).eval()  # pyright: ignore[reportCallIssue] - torch's stub lacks it


def load_state(path: Path, key: str) -> Any:
    """Tensors of a .safetensors, or plain values and tensors that torch saved. Raises UserError where it is damaged."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # by checksums that torch writes and does not read
                    raise ValueError(f"{damaged} in it has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler of damaged bytes raises anything
        raise UserError(f"{key}: {path}: no readable state dict: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def forth_and_back(frames: int) -> Int64[np.ndarray, " played"]:
    """The frames to play so that there are at least the I3D's fewest: 0 … n-1, then n-2 … 0, 1 …

    PAPER: Table 2's clips have 6 frames, and the I3D takes no fewer than 9.
    """
    return np.pad(np.arange(frames), (0, max(MIN_FRAMES - frames, 0)), mode="reflect")


def preprocess(clips: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B t 3 224 224"]:
    """Frames as an I3D takes them: [-1, 1], 224 x 224 by bilinear interpolation, at least 9 of them."""
    x = clips.flatten(0, 1).float() / 127.5 - 1
    x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=False)
    return x.unflatten(0, clips.shape[:2])[:, forth_and_back(clips.shape[1])]


def extract(network: FeatureNetwork, clips: UInt8[Tensor, "B T 3 H W"]) -> Iterator[Features]:
    """The features of some clips, BATCH_CLIPS at a time and on the CPU."""
    for batch in clips.split(BATCH_CLIPS):
        yield network(preprocess(batch.to(network.device)))

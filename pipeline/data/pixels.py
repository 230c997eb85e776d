"""Videos as networks see them, and as they are stored."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(frames: UInt8[np.ndarray, "*b H W 3"]) -> Float[Tensor, "*b 3 H W"]:
    """Grey levels 0..255 -> [-1, 1], channels before height and width."""
    # By numpy: batches are read ahead in a thread, where torch would start a second team of threads of its own.
    channels_first = np.ascontiguousarray(np.moveaxis(frames, -1, -3), dtype=np.float32)
    return torch.from_numpy(channels_first / np.float32(127.5) - np.float32(1))


def to_bytes(video: Float[Tensor, "*b 3 H W"]) -> UInt8[np.ndarray, "*b H W 3"]:
    """[-1, 1] -> grey levels 0..255, rounded."""
    levels = video.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))

"""Still pictures and tilings of videos: posters, frames in a row (Fig. 3), several videos in one (Fig. 6)."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.paths import write_atomic

GAP = 1  # pixels between tiles, before they are enlarged
GREY = 128  # of the gaps: neither a light nor a dark page's colour, so tiles stay apart on both


def enlarge(frames: UInt8[np.ndarray, "*N H W 3"], factor: int) -> UInt8[np.ndarray, "*N h w 3"]:
    """Every pixel `factor` times as wide and high (nearest neighbour)."""
    return frames if factor == 1 else frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def fitting(size: int, shown: int) -> int:
    """The largest whole factor that enlarges `size` pixels to at most `shown`; 1 for anything larger."""
    return max(shown // size, 1)


def tile(videos: UInt8[np.ndarray, "N T H W 3"], columns: int) -> UInt8[np.ndarray, "T h w 3"]:
    """Videos side by side and below each other, in reading order; what is left of the last row is grey."""
    n, t, h, w, _ = videos.shape
    rows = -(-n // columns)
    sheet = np.full((t, rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), GREY, dtype=np.uint8)
    for i, video in enumerate(videos):
        y, x = i // columns * (h + GAP), i % columns * (w + GAP)
        sheet[:, y : y + h, x : x + w] = video
    return sheet


def spread(frames: int, shown: int) -> list[int]:
    """At most `shown` frame numbers, evenly from the first to the last."""
    return np.linspace(0, frames - 1, min(shown, frames)).round().astype(int).tolist()


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"], enlarged: int = 1) -> None:
    """Write a picture, each pixel `enlarged` times as wide and high. The file appears only when whole."""
    buffer = io.BytesIO()
    Image.fromarray(enlarge(image, enlarged)).save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())

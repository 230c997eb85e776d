"""Frames to MP4 files that any browser plays, the same bytes for the same frames."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipeline.media.encode import EXACT, encode
from pipeline.media.grid import enlarge

_QUALITY = 14  # libx264's crf: enlarged pixels keep their edges


def write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float, enlarged: int = 1) -> None:
    """Write frames as H.264 (yuv420p, BT.709) at `fps` frames a second, each pixel `enlarged` times as wide and high.

    Enlarging by nearest neighbour keeps tiny videos sharp wherever they are played, and their colours, which 4:2:0
    halves. Odd sizes get their last row or column twice. The file appears under its name only when whole.
    """
    if frames.ndim == 4:
        frames = enlarge(frames, enlarged)
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    encoder = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "medium", "crf": _QUALITY}

    def output(source: Any, file: str) -> Any:
        scale = {"out_color_matrix": "bt709", "out_range": "tv", "flags": "accurate_rnd+full_chroma_int+bitexact"}
        return source.filter("scale", **scale).output(file, movflags="+faststart", **encoder, **colours, **EXACT)

    encode(path, frames, fps, output)

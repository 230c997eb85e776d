"""Frames to a GIF, for pages that play no video, such as a README."""

from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from jaxtyping import UInt8

from pipeline.media.encode import EXACT, encode


def write_gif(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write frames as a GIF that loops, at `fps` frames a second to the nearest hundredth of a second a frame.

    All frames share one palette of 256 colours, made from them, without dithering: it would crawl over flat areas and
    double the file. The same frames give the same bytes.
    """

    def output(source: Any, file: str) -> Any:
        copies = source.filter_multi_output("split")
        palette = copies[0].filter("palettegen", reserve_transparent=0)
        shown = ffmpeg.filter([copies[1], palette], "paletteuse", dither="none", diff_mode="rectangle")
        return shown.output(file, loop=0, **EXACT)

    encode(path, frames, fps, output)

"""Frames through ffmpeg into a file."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

EXACT = {"flags:v": "+bitexact", "fflags": "+bitexact", "threads": 1}  # no versions or dates in the file


def encode(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float, output: Callable[[Any, str], Any]) -> None:
    """Write frames to `path`, which appears only when whole.

    Args:
        output: makes ffmpeg's job from its input, the frames at `fps` frames a second, and the name of a file.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"{path.name} takes uint8 frames [T, H, W, 3], not {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    raw = {"format": "rawvideo", "pix_fmt": "rgb24", "video_size": (width, height), "framerate": f"{fps:.6f}"}
    job = output(ffmpeg.input("pipe:", **raw), str(temporary))
    try:
        job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=np.ascontiguousarray(frames).tobytes(), quiet=True)
        temporary.replace(path)
    except ffmpeg.Error as error:
        raise RuntimeError(f"{path}: ffmpeg failed: {error.stderr.decode(errors='replace')[-500:]}") from error
    finally:
        temporary.unlink(missing_ok=True)

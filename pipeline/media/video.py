"""Frames to video files: MP4 that any browser plays, GIF for pages that play none. The same frames, the same bytes."""

import io
import subprocess
import uuid
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.media.grid import enlarge
from pipeline.paths import write_atomic

_QUALITY = 14  # libx264's crf: enlarged pixels keep their edges
# No versions or dates in the file; and x264's macroblock tree takes into account what its memory held before.
_EXACT = {"flags:v": "+bitexact", "fflags": "+bitexact", "threads": 1, "x264-params": "mbtree=0"}
_COLOURS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
_SCALE = {"out_color_matrix": "bt709", "out_range": "tv", "flags": "accurate_rnd+full_chroma_int+bitexact"}


def write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float, enlarged: int = 1) -> None:
    """Write frames as H.264 (yuv420p, BT.709) at `fps` frames a second, each pixel `enlarged` times as wide and high.

    Enlarging by nearest neighbour keeps tiny videos sharp wherever they are played, and their colours, which 4:2:0
    halves. Odd sizes get their last row or column twice. The file appears under its name only when whole.
    """
    _check(path, frames)
    frames = enlarge(frames, enlarged)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    raw = {"format": "rawvideo", "pix_fmt": "rgb24", "video_size": (width, height), "framerate": f"{fps:.6f}"}
    encoder = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "medium", "crf": _QUALITY, **_COLOURS, **_EXACT}
    source: Any = ffmpeg.input("pipe:", **raw)
    job = source.filter("scale", **_SCALE).output(str(temporary), movflags="+faststart", loglevel="error", **encoder)
    command, content = job.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe()), np.ascontiguousarray(frames).tobytes()
    try:
        # Signals stay ignored that Python ignores: one, of a file that may not grow, would end it without a word.
        done = subprocess.run(command, input=content, capture_output=True, check=False, restore_signals=False)
        if done.returncode:
            raise RuntimeError(f"{path}: ffmpeg failed: {done.stderr.decode(errors='replace')[-500:]}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_gif(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write frames as a GIF that loops, at `fps` frames a second to the nearest hundredth of a second a frame.

    All frames share one palette of 256 colours, made from them, without dithering: it would crawl over flat areas and
    double the file. The file appears only when whole.
    """
    _check(path, frames)
    palette = Image.fromarray(frames.reshape(-1, frames.shape[2], 3)).quantize(kmeans=1)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=10 * round(100 / fps), loop=0)
    write_atomic(path, buffer.getvalue())


def _check(path: Path, frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"{path.name} takes uint8 frames [T, H, W, 3], not {frames.dtype} {frames.shape}")

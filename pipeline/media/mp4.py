"""Frames to MP4 files that any browser plays, the same bytes for the same frames."""

import uuid
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from pipeline.media.grid import enlarge

_QUALITY = 14  # libx264's crf: enlarged pixels keep their edges


def write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float, enlarged: int = 1) -> None:
    """Write frames as H.264 (yuv420p, BT.709) at `fps` frames a second, each pixel `enlarged` times as wide and high.

    Enlarging by nearest neighbour keeps tiny videos sharp wherever they are played, and their colours, which 4:2:0
    halves. Odd sizes get their last row or column twice. The file appears under its name only when whole.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"an MP4 takes uint8 frames [T, H, W, 3], not {frames.dtype} {frames.shape}")
    frames = enlarge(frames, enlarged)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
    source = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", video_size=(width, height), framerate=f"{fps:.6f}"
    ).filter("scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int+bitexact")
    exact = {"flags:v": "+bitexact", "fflags": "+bitexact", "threads": 1}  # no versions or dates in the file
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    encoder = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "medium", "crf": _QUALITY}
    job = source.output(str(temporary), movflags="+faststart", **encoder, **colours, **exact)
    try:
        job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=np.ascontiguousarray(frames).tobytes(), quiet=True)
        temporary.replace(path)
    except ffmpeg.Error as error:
        raise RuntimeError(f"{path}: ffmpeg failed: {error.stderr.decode(errors='replace')[-500:]}") from error
    finally:
        temporary.unlink(missing_ok=True)

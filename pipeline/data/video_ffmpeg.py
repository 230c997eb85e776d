"""The second engine: the same frames through ffmpeg's own filters, from the binary that imageio-ffmpeg carries."""

import subprocess
import tempfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

# Demuxers of single files. Playlists (hls, dash, concat, image sequences) would open further files, and are not here.
FORMATS = "mov,mp4,m4v,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,ivf,mxf,dv"


class FfmpegFailure(Exception):
    """ffmpeg gave up; its own words."""


def read_frames(
    path: Path, stream: int, rate: Fraction, frame_step: int, size: int, crop: str, frames: int, timeout: float
) -> Iterator[np.ndarray]:
    """Yield at most `frames` uint8 images [size, size, 3] of the stream with this index; see `video.decode_video`.

    Raises FfmpegFailure where ffmpeg yields none, or is not ready after `timeout` seconds.
    """
    source = ffmpeg.input(
        f"file:{path.absolute()}", protocol_whitelist="file", format_whitelist=FORMATS, threads=1, loglevel="error"
    )[str(stream)]
    chosen = (
        source.filter("setpts", "PTS-STARTPTS")
        .filter("fps", f"{rate.numerator}/{rate.denominator}", round="near")
        .filter("select", f"not(mod(n,{frame_step}))")
    )
    flags = "bilinear+accurate_rnd+full_chroma_int"
    if crop == "none":
        square = chosen.filter("scale", size, size, flags=flags)
    else:
        wide, high = f"max({size},round({size}*iw*sar/ih))", f"max({size},round({size}*ih/(iw*sar)))"
        portrait = "lt(iw*sar,ih)"
        square = chosen.filter(
            "scale", f"if({portrait},{size},{wide})", f"if({portrait},{high},{size})", flags=flags
        ).filter("crop", size, size, f"floor((iw-{size})/2)", f"floor((ih-{size})/2)", exact=1)
    output = square.output("pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough", **{"frames:v": frames})
    command = output.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    expired = threading.Event()
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints) as process,
    ):

        def expire() -> None:
            expired.set()
            process.kill()

        watch = threading.Timer(timeout, expire)
        watch.start()
        some = False
        try:
            assert process.stdout is not None
            while len(image := process.stdout.read(size * size * 3)) == size * size * 3:
                some = True
                yield np.frombuffer(image, np.uint8).reshape(size, size, 3)
            process.wait()
        finally:
            watch.cancel()
            process.kill()
        if expired.is_set():
            raise FfmpegFailure("took longer than decode.timeout")
        if not some:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines() or ["no frame decodes"]
            raise FfmpegFailure(f"ffmpeg: {lines[0][:200]}")

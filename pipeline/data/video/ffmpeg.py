"""The second engine: the same frames through ffmpeg's own filters, from the binary that imageio-ffmpeg carries."""

import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

import ffmpeg
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from pipeline.data.video.errors import TooLate, Unreachable, VideoError
from pipeline.data.video.source import FORMATS, MAX_PIXELS, Source
from pipeline.errors import UserError

MAX_PAUSES, GROUP = 2500, 50  # that fit into an argument; terms of a sum


def version() -> str:
    """Which ffmpeg the engine runs, and where it lies. Raises UserError where it does not run."""
    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        said = subprocess.run([binary, "-version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise UserError(f"ffmpeg does not run: {error}; point IMAGEIO_FFMPEG_EXE at one that does") from error
    return f"{' '.join(said.split()[:3])} at {binary}"


def frames_at_ticks(
    source: Source, *, step: Fraction, size: int, crop: str, frames: int, deadline: float
) -> Iterator[UInt8[np.ndarray, "{size} {size} 3"]]:
    """The frames shown at ticks 0, step, 2 step, … (rounded down), at most `frames` of them; see `video.decode_video`.

    Where the shape of the picture changes within a file, later ones are squeezed into the first one's.

    deadline: in time.monotonic()'s seconds. Raises VideoError where ffmpeg yields none, TooLate where it is past and
    Unreachable where ffmpeg does not start.
    """
    stream = ffmpeg.input(
        f"file:{source.path.absolute()}",
        protocol_whitelist="file",
        format_whitelist=FORMATS,
        max_pixels=MAX_PIXELS,
        threads=1,
        reinit_filter=0,  # which would begin anew where a frame says something else of itself than the one before
        loglevel="error",
    )[str(source.stream)]
    if source.odd_matrix:
        stream = stream.filter("setparams", colorspace="unknown")
    chosen = (
        stream.filter("setpts", _time(source))
        .filter("fps", f"{source.rate.numerator}/{source.rate.denominator}", round="near")
        # Not the output's frames:v: ffmpeg first fills all memory with copies of a frame that is shown for years.
        .filter("trim", end_frame=int((frames - 1) * step) + 1)
        .filter("select", _wanted(step))
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
    # With times as they are in the file: ffmpeg would mend jumps in its own way.
    output = square.output("pipe:", format="rawvideo", pix_fmt="gbrp", fps_mode="passthrough", copyts=None)
    command = output.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    expired = threading.Event()
    with (
        tempfile.TemporaryFile() as complaints,
        _started(command, complaints) as process,
    ):

        def expire() -> None:
            expired.set()
            process.kill()

        watch = threading.Timer(deadline - time.monotonic(), expire)
        watch.start()
        count = 0
        try:
            assert process.stdout is not None
            while len(image := process.stdout.read(size * size * 3)) == size * size * 3:
                planes = np.frombuffer(image, np.uint8).reshape(3, size, size)
                before, end = count, int(count * step) + 1  # of its tick
                count = min(-(-end // step), frames)
                for _ in range(before, count):  # several times where the source is slower
                    yield planes[[2, 0, 1]].transpose(1, 2, 0)
            process.wait()
        finally:
            watch.cancel()
            process.kill()
        if expired.is_set():
            raise TooLate
        if not count:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines() or ["ffmpeg says nothing"]
            said = re.sub(r"^(\[.*? @ 0x\w+\] )+", "", lines[0])  # an address is another at every run
            raise VideoError(f"truncated or damaged: no frame decodes ({said[:200]})")
        if process.returncode < 0:
            raise VideoError(f"ffmpeg crashed (exit code {process.returncode})")


def _wanted(step: Fraction) -> str:
    """Whether a multiple of `step` lies in tick n, for select: more of them lie before its end than its beginning."""
    first, end = (f"ceil({tick}*{step.denominator}/{step.numerator})" for tick in ("n", "(n+1)"))
    return f"gt({end},{first})"


def _time(source: Source) -> str:
    """A frame's, for setpts. In groups: ffmpeg reads no sum of a hundred terms."""
    if source.counted:
        return f"N*{source.rate.denominator}/{source.rate.numerator}/TB"
    if len(source.pauses) > MAX_PAUSES:
        raise VideoError(f"more than {MAX_PAUSES} pauses to cut out; decode.engine: pyav does it")
    late = [0, *(units for _, units in source.pauses)]
    terms = [f"gte(PTS,{stamp})*{b - a}" for (stamp, b), a in zip(source.pauses, late, strict=False)]
    sums = ("+".join(terms[i : i + GROUP]) for i in range(0, len(terms), GROUP))
    time = "".join(("PTS-STARTPTS", *(f"-({terms})" for terms in sums)))
    end = f"round({source.end * source.rate.denominator}/{source.rate.numerator}/TB)"
    return time if source.last is None else f"if(gt(PTS,{source.last}),{end},{time})"  # the stream's end has a PTS, too


def _started(command: list[str], complaints: IO[bytes]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints)
    except OSError as error:  # no memory for one more process, or the binary has gone: the file is not to blame
        raise Unreachable(f"ffmpeg does not start: {str(error.strerror).lower()}") from error

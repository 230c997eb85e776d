"""`hvg metrics`: FVD, FID and IS of one set of videos beside another, wherever they come from."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.measured import FeatureNetworks, Measured, measure, scores
from pipeline.metrics.protocol import protocol
from pipeline.metrics.sides import Clip, ClipSet, Draw, FrameSet, Rate
from pipeline.metrics.statistics import Facts, Statistics, save_statistics
from pipeline.progress import progress

log = logging.getLogger(__name__)
NAMES = ("fvd", "fid", "inception_score")
SAME_RATE = 0.01  # by which rates may differ: 29.97 and 30 are one
# Of a protocol, what is of REAL alone, and what the same is called for GENERATED with "generated_" before it.
OF_REAL = {"real_split", "real_videos", "real_scaling", "start", "frame_step", "fps", "clips_per_video", "pyramid"}
OF_GENERATED = ("frame_step", "fps", "scaling", "start", "clips_per_video")


def compare(
    networks: FeatureNetworks,
    real: ClipSet | Statistics,
    generated: ClipSet,
    *,
    frames: int | None = None,
    size: int | None = None,
    splits: int = 1,
    clips: int | None = None,
    seed: int = 0,
    save: Path | None = None,
) -> dict[str, Any]:
    """{fvd, fid, inception_score, …, note, protocol}; what takes weights that were not given is None.

    frames, size: of the clips; None: those of statistics, or of the first generated video, and where only the real
    side has a fixed size, that. Shorter videos are left out.
    clips: that each side gives, random windows by `seed`; None: the first frames of every video.
    save: where what is measured of the real side is kept.

    Raises UserError where the sides do not fit.
    """
    frames, size = _clip_of(real, generated, frames, size)
    wanted = _Wanted(frames, size, clips, seed)
    of_generated = wanted.of("GENERATED", generated, splits)
    told = False
    if isinstance(real, ClipSet):
        of_real = wanted.of("REAL", real)
        told = _tell_speeds(real.rate, generated.rate)  # as far as they show yet, before hours are spent
        measured = _measure("REAL", networks, of_real, clips or len(real))
        real = Statistics(path=real.path, measured=measured, facts=wanted.facts(real))
        if save is not None:
            save_statistics(save, networks, real)
    measured = _measure("GENERATED", networks, of_generated, clips or len(generated))
    for name, side in (("REAL", real.measured), ("GENERATED", measured)):
        if clips is not None and len(side.logits) < clips:
            log.warning("%s has no more than %d windows of %d frames, not %d", name, len(side.logits), frames, clips)
    ours, theirs = wanted.facts(generated), real.facts
    if not told:
        _tell_speeds(theirs.fps, ours.fps)
    setting = protocol(
        networks,
        frames=frames,
        start=theirs.start,
        clips_per_video=theirs.clips_per_video,
        real_split=theirs.what,
        real_videos=len(real.measured.logits),
        generated_videos=len(measured.logits),
        size=size,
        frame_step=theirs.frame_step,
        fps=theirs.fps,
        sigma=generated.sigma,
        splits=splits,
        pyramid=theirs.digest,
        samples=ours.digest,
    )
    setting |= {"real_scaling": theirs.scaling, "generated_set": ours.what}
    setting |= {f"generated_{name}": getattr(ours, name) for name in OF_GENERATED}
    numbers = scores(networks, real.measured, measured, splits)
    return {**dict.fromkeys(NAMES), **numbers, "note": _note(networks), "protocol": setting}


def as_text(comparison: dict[str, Any]) -> str:
    """For people: the numbers, what they lack, and what they were measured on: both sides alike, REAL, GENERATED."""
    numbers = dict(comparison)
    note, setting = numbers.pop("note"), numbers.pop("protocol")
    blocks = [
        [f"{name:28} {value:.4f}" for name, value in numbers.items() if value is not None],
        [note] if note else [],
    ]
    lines = {
        key: f"{key:28} {value}" for key, value in setting.items() if value not in (None, ()) and key != "psd_sets"
    }
    of_generated = {key for key in lines if key.startswith("generated")} | {"samples"}
    for chosen in (lines.keys() - of_generated - OF_REAL, OF_REAL, of_generated):
        blocks.append([line for key, line in lines.items() if key in chosen])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _note(networks: FeatureNetworks) -> str | None:
    if networks.k400.random:
        return (
            "FVD and IS take --i3d-k400, or what `hvg fetch-i3d` installs, FID takes --i3d-k600: without trained "
            "weights a random I3D measures, and its numbers are called random_i3d"
        )
    return "FID takes --i3d-k600; fid_k400 is none" if networks.k600 is None else None


def _clip_of(real: ClipSet | Statistics, generated: ClipSet, frames: int | None, size: int | None) -> tuple[int, int]:
    """(frames, pixels) of the clips of both sides."""
    if isinstance(real, Statistics):
        kept = real.facts
        for option, given, held in (("--frames", frames, kept.frames), ("--size", size, kept.size)):
            if given not in (None, held):
                raise UserError(f"{option}: {real.path} is of clips of {held}, not {given}: leave it out")
        return kept.frames, kept.size
    sizes = [side.size for side in (generated, real) if isinstance(side, FrameSet)]
    return generated.first(frames, size or next(iter(sizes), None))


@dataclass(frozen=True)
class _Wanted:
    """Clips as they are taken of either side. count: None for the first frames of every video."""

    frames: int
    size: int
    count: int | None
    seed: int

    def of(self, name: str, side: ClipSet, fewest: int = 1) -> Iterator[Clip]:
        """A side's clips. Raises UserError where they are fewer than 2 or `fewest`, before any is measured."""
        if isinstance(side, FrameSet) and side.size != self.size:
            log.warning("%s %s: frames of %s", name, side.path, side.scaling(self.size))
        draw = None if self.count is None else Draw(self.seed, name)
        clips = islice(side.clips(self.frames, self.size, draw), self.count)
        first = list(islice(clips, max(2, fewest)))
        if len(first) < 2:
            way = " can be read"
            if isinstance(side, FrameSet):
                longest = max(map(side.frames, range(len(side))))
                way = f", the longest has {longest}; --frames takes fewer of both sides"
            raise UserError(f"{name} {side.path}: fewer than 2 videos of {self.frames} frames{way}")
        if len(first) < fewest:
            raise UserError(f"--splits: {fewest} of {len(first)} videos; take fewer")
        return chain(first, clips)

    def facts(self, side: ClipSet) -> Facts:
        """Of a side whose clips were taken."""
        start = "the first frames of every video"
        if self.count is not None:
            start = f"random windows, {self.count} at most, seed {self.seed}, one of every video before a second of any"
        return Facts(
            what=side.what, digest=side.digest, frames=self.frames, size=self.size, scaling=side.scaling(self.size),
            frame_step=side.frame_step, fps=side.rate, start=f"{start}; shorter videos are left out",
            clips_per_video=side.clips_per_video,
        )  # fmt: skip


def _measure(name: str, networks: FeatureNetworks, clips: Iterator[np.ndarray], total: int) -> Measured:
    return measure(networks, iter(progress(clips, total=total, desc=f"features of {name}", unit="clips")))


def _tell_speeds(real: Rate | None, generated: Rate | None) -> bool:
    """Whether a warning says that the sides are not equally fast."""
    if real is None or generated is None or np.allclose(real, generated, rtol=SAME_RATE):
        return False
    words = (" to ".join(f"{fps:g}" for fps in np.atleast_1d(side)) for side in (real, generated))
    way = "--fps brings both to one rate"
    log.warning("videos of REAL have %s frames a second, of GENERATED %s: not equally fast; %s", *words, way)
    return True

"""`hvg metrics`: FVD, FID and IS of one set of videos beside another, wherever they come from."""

import logging
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.clip_sets import FrameSet, Side
from pipeline.metrics.measured import FeatureNetworks, measure, scores
from pipeline.metrics.protocol import protocol
from pipeline.progress import progress

log = logging.getLogger(__name__)
NAMES = ("fvd", "fid", "inception_score")


def compare(
    networks: FeatureNetworks, real: Side, generated: Side, *, frames: int | None, size: int | None, splits: int
) -> dict[str, Any]:
    """{fvd, fid, inception_score, …, note, protocol}; what takes weights that were not given is None.

    frames, size: of the clips; None: those of the first generated video, and where only the real side has a fixed
    size, that. Every video gives its first `frames` frames, and shorter ones are left out. Only a folder's videos are
    scaled. Raises UserError where the sides do not fit.
    """
    sizes = [side.size for side in (generated, real) if isinstance(side, FrameSet)]
    frames, size = generated.first(frames, size or next(iter(sizes), None))
    for side, name in ((real, "REAL"), (generated, "GENERATED")):
        if isinstance(side, FrameSet) and side.size != size:
            way = "scale one side like the other" if size in sizes else f"leave out --size, or give {side.size}"
            raise UserError(f"{name} {side.path}: {side.size} pixels, and the clips have {size}: {way}")
    clips = _clips(real, "REAL", frames, size, 1), _clips(generated, "GENERATED", frames, size, splits)
    if len(sizes) == 2 and None not in (speeds := (real.speed, generated.speed)) and len(set(speeds)) == 2:
        log.warning("%s of REAL, %s of GENERATED: their speeds differ", *speeds)
    of_real, of_generated = (
        measure(networks, iter(progress(side, total=total, desc=f"features of {name}", unit="clips")))
        for name, (side, total) in zip(("REAL", "GENERATED"), clips, strict=True)
    )
    setting = protocol(
        networks,
        frames=frames,
        start="the first frames of every video; shorter videos are left out",
        real_split=real.what,
        real_videos=len(of_real.logits),
        generated_videos=len(of_generated.logits),
        size=size,
        frame_step=real.frame_step,
        fps=real.fps,
        sigma=generated.sigma,
        splits=splits,
        pyramid=real.digest,
        samples=generated.digest,
    )
    setting |= {"generated_set": generated.what, "generated_frame_step": generated.frame_step}
    setting["generated_fps"] = generated.fps
    numbers = scores(networks, of_real, of_generated, splits)
    return {**dict.fromkeys(NAMES), **numbers, "note": _note(networks), "protocol": setting}


def as_text(comparison: dict[str, Any]) -> str:
    """For people: the numbers, what they lack, and what they were measured on."""
    numbers = dict(comparison)
    note, setting = numbers.pop("note"), numbers.pop("protocol")
    lines = [f"{name:28} {value:.4f}" for name, value in numbers.items() if value is not None]
    lines += ["", note, ""] if note else [""]
    lines += [f"{key:28} {'none' if value in (None, ()) else value}" for key, value in setting.items()]
    return "\n".join(lines)


def _note(networks: FeatureNetworks) -> str | None:
    if networks.logits.random:
        return (
            "FVD and IS take --i3d-k400, or what `hvg fetch-i3d` installs, FID takes --i3d-k600: without trained "
            "weights a random I3D measures, and its numbers are called random_i3d"
        )
    return "FID takes --i3d-k600; fid_k400 is none" if networks.pooled == networks.logits else None


def _clips(side: Side, name: str, frames: int, size: int, splits: int) -> tuple[Iterator[np.ndarray], int | None]:
    """A side's clips, and how many where that is known.

    Raises UserError where they are too few, before any is measured.
    """
    total, way = None, " can be read"
    if isinstance(side, FrameSet):
        total = int((side.lengths >= frames).sum())
        way = f", the longest has {side.lengths.max()}; --frames takes fewer of both sides"
    clips = side.clips(frames, size)
    first = list(islice(clips, max(2, splits)))
    if len(first) < 2:
        raise UserError(f"{name} {side.path}: fewer than 2 videos of {frames} frames{way}")
    if len(first) < splits:
        raise UserError(f"--splits: {splits} of {len(first)} videos; take fewer")
    return chain(first, clips), total

"""`hvg metrics`: FVD, FID and IS of one set of videos beside another, wherever they come from."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.metrics.clip_sets import ClipSet, StoreSet
from pipeline.metrics.evaluation import BATCH_CLIPS
from pipeline.metrics.measured import Batch, FeatureNetworks, Measured, scores
from pipeline.metrics.protocol import protocol
from pipeline.progress import progress

log = logging.getLogger(__name__)
NAMES = ("fvd", "fid", "inception_score")


def compare(
    networks: FeatureNetworks, real: ClipSet, generated: ClipSet, *, frames: int | None, size: int | None, splits: int
) -> dict[str, Any]:
    """{fvd, fid, inception_score, …, note, protocol}; what takes weights that were not given is None.

    frames, size: of the clips; None: those of the first generated video, and where only the real side has a fixed
    size, that. Every video gives its first `frames` frames, and shorter ones are left out. Only a folder's videos are
    scaled. Raises UserError where the sides do not fit.
    """
    frames, size = generated.first(frames, size or generated.size or real.size)
    for side, other, name in ((real, generated, "REAL"), (generated, real, "GENERATED")):
        if side.size is not None and side.size != size:
            way = "scale one side like the other" if other.size == size else f"leave out --size, or give {side.size}"
            raise UserError(f"{name} {side.path}: {side.size} pixels, and the clips have {size}: {way}")
        if side.lengths is not None and (side.lengths >= frames).sum() < 2:
            raise UserError(
                f"{name} {side.path}: fewer than 2 videos of {frames} frames, the longest has {side.lengths.max()}; "
                "--frames takes fewer of both sides"
            )
    if generated.lengths is not None:
        _check_splits(splits, int((generated.lengths >= frames).sum()))
    steps = real.frame_step, generated.frame_step
    if isinstance(real, StoreSet) and isinstance(generated, StoreSet) and None not in steps and len(set(steps)) == 2:
        log.warning("%d native frames from one frame of REAL to the next, %d of GENERATED: their speeds differ", *steps)
    of_real = _measured(networks, real, "REAL", frames, size, 1)
    of_generated = _measured(networks, generated, "GENERATED", frames, size, splits)
    numbers = scores(of_real, of_generated, labelled=True)
    setting = protocol(
        networks,
        frames=frames,
        start="the first frames of every video; shorter videos are left out",
        real_split=real.what,
        real_videos=of_real.count,
        generated_videos=of_generated.count,
        size=size,
        frame_step=real.frame_step,
        sigma=generated.sigma,
        splits=splits,
        psd_frames=(),
        psd_sets=0,
        seed=None,
        pyramid=real.digest,
        samples=generated.digest,
    )
    setting |= {"generated_set": generated.what, "generated_frame_step": generated.frame_step}
    return {**dict.fromkeys(NAMES), **numbers, "note": _note(networks), "protocol": setting}


def render(comparison: dict[str, Any]) -> str:
    """For people: the numbers, what they lack, and what they were measured on."""
    numbers = dict(comparison)
    note, setting = numbers.pop("note"), numbers.pop("protocol")
    lines = [f"{name:28} {value:.4f}" for name, value in numbers.items() if value is not None]
    lines += ["", note, ""] if note else [""]
    return "\n".join([*lines, *(f"{name:28} {_plain(value)}" for name, value in setting.items())])


def _plain(value: Any) -> str:
    return "none" if value in (None, ()) else str(value)


def _note(networks: FeatureNetworks) -> str | None:
    missing = [
        f"{what} take{'' if ' and ' in what else 's'} --{option}"
        for network, what, option in (
            (networks.logits, "FVD and IS", "i3d-k400"),
            (networks.pooled, "FID", "i3d-k600"),
        )
        if network.random
    ]
    if not missing:
        return None
    return f"{'; '.join(missing)}: without trained weights a random I3D measures, and its numbers are called random_i3d"


def _measured(networks: FeatureNetworks, side: ClipSet, name: str, frames: int, size: int, splits: int) -> Measured:
    measured = Measured(networks, videos=0, splits=splits)
    total = None if side.lengths is None else int((side.lengths >= frames).sum())
    with progress(total=total, desc=f"features of {name}", unit="clips") as bar:
        measured.measure(_batches(side, frames, size, bar))
    if measured.count < 2:
        raise UserError(f"{name} {side.path}: fewer than 2 videos of {frames} frames can be read")
    _check_splits(splits, measured.count)
    return measured


def _check_splits(splits: int, videos: int) -> None:
    if splits > videos:
        raise UserError(f"--splits: {splits} of {videos} videos; take fewer")


def _batches(side: ClipSet, frames: int, size: int, bar: Any) -> Iterator[Batch]:
    first, videos = 0, side.clips(frames, size)
    while batch := list(islice(videos, BATCH_CLIPS)):
        clips = torch.from_numpy(np.stack(batch)).movedim(-1, -3)
        yield Batch(first=first, clips=clips, labels=torch.full((len(batch),), -1))
        first += len(batch)
        bar.update(len(batch))

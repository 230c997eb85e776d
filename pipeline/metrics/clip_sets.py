"""A set of videos as people have it: an array in a file, a store of ours, or a folder of videos."""

import hashlib
import logging
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from zarr.errors import ZarrUserWarning

from pipeline.data.layouts.walk import files_below, is_image, is_video, videos_of
from pipeline.data.store.opening import WAY_OUT, open_group, read_table
from pipeline.data.store.reader import ViewReader
from pipeline.data.video.source import EXACT
from pipeline.errors import UserError, reading
from pipeline.metrics.arrays import open_array
from pipeline.metrics.sides import ClipSet, FolderSet, FrameSet
from pipeline.progress import progress

log = logging.getLogger(__name__)
KINDS = "a folder of videos (files or folders of numbered images), a store, a .npy or a .npz file"


def open_set(
    path: Path,
    *,
    split: str | None = None,
    frame_step: int = 1,
    fps: float | None = None,
    class_name: str | None = None,
) -> ClipSet:
    """Videos at `path`: a .npy or .npz file, a store's folder, or a folder of videos.

    split: of a store; None: the only one, or val.
    frame_step: every so manieth frame is taken, or with `fps` so many a second; what says no rate is taken to have it.
    class_name: of a store, only its videos count; arrays and folders know no classes and count whole.

    Raises UserError, with the way out, where there is nothing that can be measured.
    """
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _array_set(path, frame_step, fps)
    if (path / "videos.parquet").is_file():
        return _store_set(path, split, frame_step, fps, class_name)
    if path.is_dir():
        return _folder_set(path, frame_step, fps)
    alone = "; statistics stand for REAL alone" if path.suffix == ".safetensors" else ""
    raise UserError(f"{path}: no such set; give {KINDS}{alone}")


def _array_set(path: Path, frame_step: int, fps: float | None) -> FrameSet:
    array = open_array(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    videos, frames, height, width = array.shape[:4]
    return FrameSet(
        path=path, what=f"array {path.name}", digest=digest, frame_step=frame_step if frame_step > 1 else None, fps=fps,
        lengths=[frames] * videos, steps=[Fraction(frame_step)] * videos, width=width, height=height,
        read=lambda video, start, frames: np.asarray(array[video, start : start + frames]),
    )  # fmt: skip


def _folder_set(path: Path, frame_step: int, fps: float | None) -> FolderSet:
    names, digest = [], hashlib.sha256()
    files = files_below(path, lambda name: is_video(name) or is_image(name))
    for name, *_ in progress(files, desc=f"digest of {path.name}", unit="files"):
        try:
            with (path / name).open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            log.warning("%s is left out: %s", path / name, error.strerror)
            continue
        digest.update(f"{name}\0{content}\n".encode())
        names.append(name)
    videos = videos_of(names)
    if not videos:
        alone = any(is_image(f"video/{file.name}") for file in path.iterdir())
        way = "its images are one video; give the folder above" if alone else f"no video in it; give {KINDS}"
        raise UserError(f"{path}: {way}")
    images = sum(not is_video(name) for name in videos)
    what = f"folder of {len(videos)} videos" + (f", {images} of them folders of images" if images else "")
    return FolderSet(
        path=path, what=what, digest=digest.hexdigest(), frame_step=None if fps else frame_step, fps=fps,
        videos=[path / name for name in videos],
    )  # fmt: skip


def _store_set(path: Path, split: str | None, frame_step: int, fps: float | None, class_name: str | None) -> FrameSet:
    table, group = read_table(path), open_group(path)
    with warnings.catch_warnings(), reading(path, WAY_OUT):  # the tables that lie beside the arrays are no news
        warnings.filterwarnings("ignore", "Object at", ZarrUserWarning)
        names = list(group.array_keys())
    level = max((int(name.removeprefix("level-")) for name in names if name.startswith("level-")), default=None)
    if level is None:
        raise UserError(f"{path}: a store without a level; {WAY_OUT}")
    splits = set(table["split"])
    split = split or (next(iter(splits)) if len(splits) == 1 else "val")
    if split not in splits:
        raise UserError(f"--real-split: {path} has the splits {', '.join(sorted(splits))}, not {split!r}")
    reader = ViewReader(path, level, split, in_memory=0)
    chosen = np.arange(len(reader))
    if class_name is not None:
        if class_name not in reader.classes:
            raise UserError(f"--class: {path} has no class {class_name!r}")
        chosen = np.flatnonzero(reader.labels == reader.classes.index(class_name))
        if len(chosen) < 2:
            raise UserError(f"--class: split {split} of {path} has {len(chosen)} videos of {class_name!r}, not two")
    sigmas = set(reader.videos["sigma"]) if "sigma" in reader.videos else set()
    with reading(path, WAY_OUT):
        native, rates = _speed(reader, group.attrs)
    steps = [Fraction(frame_step)] * len(chosen)
    if fps is not None and rates is not None:
        steps = [(Fraction(rate) / Fraction(fps)).limit_denominator(EXACT) for rate in rates[chosen].tolist()]
        if min(steps) < 1:
            raise UserError(
                f"--fps: {path} has {min(rates[chosen]):g} frames a second: give no more, or frames come twice"
            )
    return FrameSet(
        path=path,
        what=f"split {split} of the store {path}, level {level}" + (f", class {class_name!r}" if class_name else ""),
        digest=reader.digest,
        lengths=reader.n_frames[chosen].tolist(),
        steps=steps,
        width=reader.size,
        height=reader.size,
        read=lambda video, start, frames: reader.read(int(chosen[video]), start, frames),
        sigma=float(sigmas.pop()) if len(sigmas) == 1 else None,
        frame_step=None if native is None or fps else native * frame_step,
        fps=fps,
        rates=set() if rates is None else set((rates[chosen] / frame_step).tolist()),
    )


def _speed(reader: ViewReader, said: Mapping[str, Any]) -> tuple[int | None, np.ndarray | None]:
    """Native frames from one to the next, and frames a second of every video, where a store knows them."""
    step, fps = (None if said.get(name) is None else float(said[name]) for name in ("frame_step", "fps"))
    rates = None if fps is None else np.full(len(reader), fps)
    if rates is None and step is not None and "fps" in reader.videos:
        rates = reader.videos["fps"].to_numpy(float) / max(step, 1)
    for number in (step, *(() if rates is None else rates)):
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"a frame rate or step of {number}")
    return None if step is None else int(step), rates

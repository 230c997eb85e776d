"""A set of videos as people have it: an array in a file, a store of ours, or a folder of videos."""

import hashlib
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from pipeline.data.layouts.walk import is_video
from pipeline.data.store.reader import ViewReader, open_group
from pipeline.data.video.frames import decode_video
from pipeline.data.video.source import VideoError, examine
from pipeline.errors import UserError
from pipeline.metrics.features import wrong_frames

log = logging.getLogger(__name__)
TIMEOUT = 600  # seconds that a video may take
LOOKED_AT = 8  # videos of an array whose values are looked at beforehand


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Videos on one side of a comparison.

    lengths: their frames; None: not known before they are decoded. size: pixels; None: they are scaled.
    """

    path: Path
    what: str  # in words, for the protocol
    digest: str
    lengths: np.ndarray | None
    size: int | None
    sigma: float | None = None
    frame_step: int | None = None

    def clips(self, frames: int, size: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
        """The first `frames` frames of every video, size x size; videos that are shorter are left out."""
        raise NotImplementedError

    def first(self) -> tuple[int, int]:
        """(frames, pixels) of the set's first video."""
        assert self.lengths is not None and self.size is not None
        return int(self.lengths[0]), self.size


@dataclass(frozen=True, kw_only=True)
class ArraySet(ClipSet):
    """uint8 N T H W 3, memory-mapped where the file allows it."""

    array: np.ndarray

    def clips(self, frames: int, size: int) -> Iterator[np.ndarray]:
        for video in self.array if self.array.shape[1] >= frames else ():
            yield np.asarray(video[:frames])


@dataclass(frozen=True, kw_only=True)
class StoreSet(ClipSet):
    """A split of a view of data/pyramid or data/samples/level-l."""

    reader: ViewReader

    def clips(self, frames: int, size: int) -> Iterator[np.ndarray]:
        for video in np.flatnonzero(self.reader.n_frames >= frames):
            yield self.reader.read(int(video), 0, frames)


@dataclass(frozen=True, kw_only=True)
class FolderSet(ClipSet):
    """Video files, decoded, scaled and cropped to a square."""

    files: list[Path]
    step: int  # native frames from one frame to the next

    def clips(self, frames: int, size: int) -> Iterator[np.ndarray]:
        for file in self.files:
            sink = _Frames()
            try:
                decode_video(file, sink, frame_step=self.step, size=size, crop="center", max_frames=frames,
                             engine="pyav", timeout=TIMEOUT)  # fmt: skip
            except VideoError as error:
                log.warning("%s is left out: %s", file, error)
                continue
            if len(sink.frames) >= frames:
                yield np.stack(sink.frames)

    def first(self) -> tuple[int, int]:
        for file in self.files:
            try:
                source = examine(file, float("inf"))
            except (VideoError, FFmpegError):
                continue
            sink = _Frames()
            size = min(source.facts.width, source.facts.height)
            decode_video(file, sink, frame_step=self.step, size=size, crop="center", max_frames=None, engine="pyav",
                         timeout=TIMEOUT)  # fmt: skip
            return len(sink.frames), size
        raise UserError(f"{self.path}: no video in it can be decoded")


class _Frames:
    """Frames as they come."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def put(self, frame: np.ndarray) -> None:
        self.frames.append(frame.copy())

    def clear(self) -> None:
        self.frames.clear()


def open_set(path: Path, *, split: str | None, frame_step: int) -> ClipSet:
    """Videos at `path`: a .npy or .npz file, a store's folder, or a folder of videos.

    split: of a store; None: samples of a store of samples, val of a pyramid. frame_step: of a folder's videos.

    Raises UserError, with the way out, where there is nothing that can be measured.
    """
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _array_set(path)
    if (path / "videos.parquet").is_file():
        return _store_set(path, split)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if is_video(file.name))
        if not files:
            raise UserError(f"{path}: no video in it; give a folder of videos, a store, a .npy or a .npz file")
        names = "".join(f"{file.relative_to(path)} {file.stat().st_size}\n" for file in files)
        return FolderSet(
            path=path, what=f"folder of {len(files)} videos", digest=hashlib.sha256(names.encode()).hexdigest(),
            lengths=None, size=None, frame_step=frame_step, files=files, step=frame_step,
        )  # fmt: skip
    raise UserError(f"{path}: no such set; give a folder of videos, a store, a .npy or a .npz file")


def _array_set(path: Path) -> ArraySet:
    array = _load(path)
    if array.ndim != 5 or array.shape[-1] != 3:
        moved = array.ndim == 5 and array.shape[2] == 3
        way = "move the channels last (np.moveaxis(x, 2, -1))" if moved else "frames are uint8 N T H W 3"
        raise UserError(f"{path}: an array of shape {array.shape}: {way}")
    if array.shape[2] != array.shape[3]:
        raise UserError(f"{path}: frames of {array.shape[3]}x{array.shape[2]}: crop or scale them to a square")
    if not array.size:
        raise UserError(f"{path}: an array of shape {array.shape} holds no frame")
    wrong = wrong_frames(array[:LOOKED_AT])
    if wrong is not None:
        raise UserError(f"{path}: {wrong}")
    if array[:LOOKED_AT].max() == 1:
        raise UserError(f"{path}: no value above 1: frames of [0, 1] were cast to uint8; round x * 255 instead")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lengths = np.full(len(array), array.shape[1])
    return ArraySet(
        path=path, what=f"array {path.name}", digest=digest, lengths=lengths, size=array.shape[2], array=array
    )


def _load(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no readable array: {str(error).splitlines()[0]}") from error
    if isinstance(found, np.ndarray):
        return found
    with found:
        if len(found.files) != 1:
            raise UserError(f"{path}: holds {', '.join(found.files) or 'nothing'}; give a file with one array")
        try:
            return found[found.files[0]]
        except (ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: no readable array: {str(error).splitlines()[0]}") from error


def _store_set(path: Path, split: str | None) -> StoreSet:
    group = open_group(path)
    level = max(int(name.removeprefix("level-")) for name in group.array_keys() if name.startswith("level-"))
    splits = set(ViewReader(path, level, in_memory=0).videos["split"])
    chosen = split or ("samples" if "samples" in splits else "val")
    if chosen not in splits:
        raise UserError(f"--real-split: {path} has the splits {', '.join(sorted(splits))}, not {chosen!r}")
    reader = ViewReader(path, level, chosen, in_memory=0)
    sigmas = set(reader.videos["sigma"]) if "sigma" in reader.videos else set()
    step = group.attrs.get("frame_step")
    return StoreSet(
        path=path,
        what=f"split {chosen} of the store {path}, level {level}",
        digest=reader.digest,
        lengths=reader.n_frames,
        size=reader.size,
        sigma=float(sigmas.pop()) if len(sigmas) == 1 else None,
        frame_step=None if step is None else int(cast(Any, step)),
        reader=reader,
    )

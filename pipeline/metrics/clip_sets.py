"""A set of videos as people have it: an array in a file, a store of ours, or a folder of videos."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from zarr.errors import ZarrUserWarning

from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.store.opening import WAY_OUT, open_group, read_table
from pipeline.data.store.reader import ViewReader
from pipeline.data.video.errors import VideoError
from pipeline.data.video.frames import decode_video
from pipeline.data.video.source import examine
from pipeline.errors import UserError, reading
from pipeline.metrics.arrays import open_array
from pipeline.progress import progress

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 600  # that a video may take
MAX_CLIP_BYTES = 2**30  # of a clip, where nobody said how long and large clips are


@dataclass(frozen=True, kw_only=True)
class _ClipSet:
    """Videos on one side of a comparison."""

    path: Path
    what: str  # in words, for the protocol
    digest: str
    sigma: float | None = None
    frame_step: int | None = None  # native frames from one to the next
    fps: float | None = None  # frames a second, where they are fixed

    @property
    def speed(self) -> str | None:
        """In words, where it is known."""
        if self.frame_step is not None:
            return f"{self.frame_step} native frames a frame"
        return None if self.fps is None else f"{self.fps:g} frames a second"


@dataclass(frozen=True, kw_only=True)
class FrameSet(_ClipSet):
    """Videos that lie as frames in an array or a store. lengths: their frames; size: pixels."""

    lengths: np.ndarray
    size: int
    read: Callable[[int, int], UInt8[np.ndarray, "T H W 3"]]  # the first frames of a video: its number, how many

    def clips(self, frames: int, size: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
        """The first `frames` frames of every video, which are `size` pixels; shorter videos are left out."""
        assert size == self.size
        return (self.read(int(video), frames) for video in np.flatnonzero(self.lengths >= frames))

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        """(frames, pixels) of a clip: what is given, and for the rest those of the set's first video."""
        return frames or int(self.lengths[0]), size or self.size


@dataclass(frozen=True, kw_only=True)
class FolderSet(_ClipSet):
    """Video files, decoded, scaled and cropped to a square."""

    files: list[Path]

    def clips(self, frames: int, size: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
        """The first `frames` frames of every video, size x size; what is shorter or cannot be decoded is left out."""
        for file in self.files:
            try:
                decoded = self._decode(file, frames, size)
            except VideoError as error:
                log.warning("%s is left out: %s", file, error)
                continue
            if len(decoded) >= frames:
                yield np.stack(decoded)

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        """As FrameSet.first, of the first video that can be decoded.

        Raises UserError, with what to give, where nobody said how large it is and that is more than MAX_CLIP_BYTES.
        """
        if frames is not None and size is not None:
            return frames, size
        for file in self.files:
            try:
                facts = examine(file, float("inf")).facts
                pixels = size or min(facts.width, facts.height)
                most = MAX_CLIP_BYTES // (3 * pixels**2) + 1  # and no more is decoded
                count = len(self._decode(file, min(frames or most, most), pixels))
            except (VideoError, FFmpegError):
                continue
            if 3 * count * pixels**2 > MAX_CLIP_BYTES:
                missing = [name for name, given in (("--frames", frames), ("--size", size)) if given is None]
                raise UserError(
                    f"{file}: {count} frames of {pixels}x{pixels} or more are too much for a clip: "
                    f"give {' and '.join(missing)}"
                )
            return frames or count, pixels
        raise UserError(f"{self.path}: no video in it can be decoded")

    def _decode(self, file: Path, frames: int, size: int) -> "_Frames":
        decoded = _Frames()
        decode_video(file, decoded, frame_step=self.frame_step, fps=self.fps, size=size, crop="center", hdr="tone-map",
                     max_frames=frames, engine="pyav", timeout=TIMEOUT_SECONDS)  # fmt: skip
        return decoded


class _Frames(list[np.ndarray]):
    """A video's frames as they are decoded, which uses the memory of one again for the next."""

    def put(self, frame: np.ndarray) -> None:
        self.append(frame.copy())


Side = FrameSet | FolderSet


def open_set(
    path: Path, *, split: str | None, frame_step: int | None, fps: float | None = None, class_name: str | None = None
) -> Side:
    """Videos at `path`: a .npy or .npz file, a store's folder, or a folder of videos.

    split: of a store; None: the only one, or val.
    frame_step, or fps: of a folder's videos.
    class_name: of a store, only its videos count; arrays and folders know no classes and count whole.

    Raises UserError, with the way out, where there is nothing that can be measured.
    """
    if path.suffix in (".npy", ".npz") and path.is_file():
        array = open_array(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FrameSet(
            path=path, what=f"array {path.name}", digest=digest, lengths=np.full(len(array), array.shape[1]),
            size=array.shape[2], read=lambda video, frames: np.asarray(array[video, :frames]),
        )  # fmt: skip
    if (path / "videos.parquet").is_file():
        return _read_store(path, split, class_name)
    if path.is_dir():
        return _folder_set(path, frame_step, fps)
    raise UserError(f"{path}: no such set; give a folder of videos, a store, a .npy or a .npz file")


def _folder_set(path: Path, frame_step: int | None, fps: float | None) -> FolderSet:
    files, digest = [], hashlib.sha256()
    for name, *_ in progress(files_below(path, is_video), desc=f"digest of {path.name}", unit="files"):
        file = path / name
        try:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            log.warning("%s is left out: %s", file, error.strerror)
            continue
        digest.update(f"{name}\0{content}\n".encode())
        files.append(file)
    if not files:
        raise UserError(f"{path}: no video in it; give a folder of videos, a store, a .npy or a .npz file")
    what = f"folder of {len(files)} videos"
    return FolderSet(path=path, what=what, digest=digest.hexdigest(), frame_step=frame_step, fps=fps, files=files)


def _read_store(path: Path, split: str | None, class_name: str | None) -> FrameSet:
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
    step, fps = (group.attrs.get(name) for name in ("frame_step", "fps"))
    return FrameSet(
        path=path,
        what=f"split {split} of the store {path}, level {level}" + (f", class {class_name!r}" if class_name else ""),
        digest=reader.digest,
        lengths=reader.n_frames[chosen],
        size=reader.size,
        read=lambda video, frames: reader.read(int(chosen[video]), 0, frames),
        sigma=float(sigmas.pop()) if len(sigmas) == 1 else None,
        frame_step=None if step is None else int(cast(Any, step)),
        fps=None if fps is None else float(cast(Any, fps)),
    )

"""A set of videos as people have it: an array in a file, a store of ours, or a folder of videos."""

import hashlib
import logging
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, cast

import numpy as np
import zarr
from av.error import FFmpegError
from jaxtyping import UInt8
from pyarrow import ArrowException
from zarr.errors import ZarrUserWarning

from pipeline.data.layouts.walk import files_below, is_video
from pipeline.data.store.reader import ViewReader, open_group
from pipeline.data.video.frames import decode_video
from pipeline.data.video.source import VideoError, examine
from pipeline.errors import UserError
from pipeline.metrics.features import wrong_frames
from pipeline.progress import progress

log = logging.getLogger(__name__)
TIMEOUT = 600  # seconds that a video may take
LOOKED_AT = 8  # videos of an array whose values are looked at beforehand
MAX_NPZ = 4 * 2**30  # bytes of an array that is held in memory whole
MAX_CLIP = 2**30  # bytes of a clip, where nobody said how long and large clips are
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class ClipSet(ABC):
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

    @abstractmethod
    def clips(self, frames: int, size: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
        """The first `frames` frames of every video, size x size; videos that are shorter are left out."""

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        """(frames, pixels) of a clip: what is given, and for the rest those of the set's first video.

        Raises UserError, with what to give, where nobody said how large it is and that is more than MAX_CLIP bytes.
        """
        assert self.lengths is not None and self.size is not None
        return frames or int(self.lengths[0]), size or self.size


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
    chosen: np.ndarray  # the numbers of its videos that count

    def clips(self, frames: int, size: int) -> Iterator[np.ndarray]:
        for video in self.chosen[self.reader.n_frames[self.chosen] >= frames]:
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

    def first(self, frames: int | None, size: int | None) -> tuple[int, int]:
        if frames is not None and size is not None:
            return frames, size
        for file in self.files:
            sink = _Count()
            try:
                facts = examine(file, float("inf")).facts
                pixels = size or min(facts.width, facts.height)
                most = MAX_CLIP // (3 * pixels**2) + 1  # and no more is decoded
                decode_video(file, sink, frame_step=self.step, size=pixels, crop="center",
                             max_frames=min(frames or most, most), engine="pyav", timeout=TIMEOUT)  # fmt: skip
            except (VideoError, FFmpegError):
                continue
            if 3 * sink.frames * pixels**2 > MAX_CLIP:
                missing = " and ".join(
                    name for name, given in (("--frames", frames), ("--size", size)) if given is None
                )
                raise UserError(
                    f"{file}: {sink.frames} frames of {pixels}x{pixels} or more are too much for a clip: give {missing}"
                )
            return frames or sink.frames, pixels
        raise UserError(f"{self.path}: no video in it can be decoded")


class _Frames:
    """Frames as they come."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def put(self, frame: np.ndarray) -> None:
        self.frames.append(frame.copy())

    def clear(self) -> None:
        self.frames.clear()


class _Count:
    """How many frames came; none is kept."""

    def __init__(self) -> None:
        self.frames = 0

    def put(self, frame: np.ndarray) -> None:
        self.frames += 1

    def clear(self) -> None:
        self.frames = 0


def open_set(path: Path, *, split: str | None, frame_step: int, class_name: str | None = None) -> ClipSet:
    """Videos at `path`: a .npy or .npz file, a store's folder, or a folder of videos.

    split: of a store; None: samples (or figures) of a store of samples, val of a pyramid. frame_step: of a folder's
        videos. class_name: of a store, only its videos count; arrays and folders know no classes and count whole.

    Raises UserError, with the way out, where there is nothing that can be measured.
    """
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _array_set(path)
    if (path / "videos.parquet").is_file():
        return _store_set(path, split, class_name)
    if path.is_dir():
        return _folder_set(path, frame_step)
    raise UserError(f"{path}: no such set; give a folder of videos, a store, a .npy or a .npz file")


def _folder_set(path: Path, frame_step: int) -> FolderSet:
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
    return FolderSet(
        path=path, what=f"folder of {len(files)} videos", digest=digest.hexdigest(), lengths=None, size=None,
        frame_step=frame_step, files=files, step=frame_step,
    )  # fmt: skip


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
        if path.suffix == ".npz":
            return _load_npz(path)
        return np.lib.format.open_memmap(path, mode="r")
    except (
        OSError,
        ValueError,
        SyntaxError,
        TokenError,
        EOFError,
        OverflowError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
    ) as error:
        way = "; save it as .npy" if path.suffix == ".npz" else ""
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: no readable array: {reason}{way}") from error


def _load_npz(path: Path) -> np.ndarray:
    """The one array of a .npz file, decompressed only after its header agreed with the archive's own listing."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members)
            raise UserError(f"{path}: holds {names or 'nothing'}; give a file with one array")
        (member,) = members
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("encrypted, or compressed as numpy does not")
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"version {version} of the format")
            shape, fortran, dtype = _HEADERS[version](file)
            held = prod(shape) * dtype.itemsize
            if held + file.tell() != member.file_size:
                raise ValueError(f"an array of shape {shape} in {member.file_size} bytes")
        if fortran:
            raise UserError(f"{path}: in Fortran's order: save np.ascontiguousarray(x)")
        if held > MAX_NPZ:
            raise UserError(f"{path}: {held} bytes are too many to decompress: save it as .npy, which is read in place")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _store_set(path: Path, split: str | None, class_name: str | None) -> StoreSet:
    try:
        return _read_store(path, split, class_name)
    except UserError:
        raise
    except (ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # by what is damaged
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: a damaged store ({reason}); make it anew, or copy it whole") from error


def _levels(group: zarr.Group) -> list[int]:
    with warnings.catch_warnings():  # the tables that lie beside the arrays are no news
        warnings.filterwarnings("ignore", "Object at", ZarrUserWarning)
        names = list(group.array_keys())
    return [int(name.removeprefix("level-")) for name in names if name.startswith("level-")]


def _read_store(path: Path, split: str | None, class_name: str | None) -> StoreSet:
    group = open_group(path)
    level = max(_levels(group), default=None)
    if level is None:
        raise UserError(f"{path}: a store without a level; make it anew, or copy it whole")
    splits = set(ViewReader(path, level, in_memory=0).videos["split"])
    wanted = split or next((name for name in ("samples", "figures") if name in splits), "val")
    if wanted not in splits:
        raise UserError(f"--real-split: {path} has the splits {', '.join(sorted(splits))}, not {wanted!r}")
    reader = ViewReader(path, level, wanted, in_memory=0)
    chosen = np.arange(len(reader))
    if class_name is not None:
        if class_name not in reader.classes:
            raise UserError(f"--class: {path} has no class {class_name!r}")
        chosen = np.flatnonzero(reader.labels == reader.classes.index(class_name))
        if len(chosen) < 2:
            raise UserError(f"--class: split {wanted} of {path} has {len(chosen)} videos of {class_name!r}, not two")
    sigmas = set(reader.videos["sigma"]) if "sigma" in reader.videos else set()
    step = group.attrs.get("frame_step")
    return StoreSet(
        path=path,
        what=f"split {wanted} of the store {path}, level {level}{_of_class(class_name)}",
        digest=reader.digest,
        lengths=reader.n_frames[chosen],
        size=reader.size,
        sigma=float(sigmas.pop()) if len(sigmas) == 1 else None,
        frame_step=None if step is None else int(cast(Any, step)),
        reader=reader,
        chosen=chosen,
    )


def _of_class(class_name: str | None) -> str:
    return "" if class_name is None else f", class {class_name!r}"

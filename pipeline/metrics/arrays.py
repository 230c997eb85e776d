"""Videos in a .npy or .npz file: uint8 frames N T H W 3, looked at before they are trusted."""

import zipfile
import zlib
from math import prod
from pathlib import Path
from tokenize import TokenError

import numpy as np
from jaxtyping import UInt8

from pipeline.errors import UserError

LOOKED_AT_VIDEOS = 8  # of an array, whose values are looked at beforehand
MAX_NPZ_BYTES = 4 * 2**30  # of an array that is held in memory whole
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_array(path: Path) -> UInt8[np.ndarray, "N T S S 3"]:
    """The videos of a .npy or .npz file, memory-mapped where the file allows it.

    Raises UserError, with the way out, where it holds no square uint8 frames.
    """
    array = _load(path)
    if array.ndim != 5 or array.shape[-1] != 3:
        moved = array.ndim == 5 and array.shape[2] == 3
        way = "move the channels last (np.moveaxis(x, 2, -1))" if moved else "frames are uint8 N T H W 3"
        raise UserError(f"{path}: an array of shape {array.shape}: {way}")
    if array.shape[2] != array.shape[3]:
        raise UserError(f"{path}: frames of {array.shape[3]}x{array.shape[2]}: crop or scale them to a square")
    if not array.size:
        raise UserError(f"{path}: an array of shape {array.shape} holds no frame")
    wrong = wrong_frames(array[:LOOKED_AT_VIDEOS])
    if wrong is not None:
        raise UserError(f"{path}: {wrong}")
    if array[:LOOKED_AT_VIDEOS].max() == 1:
        raise UserError(f"{path}: no value above 1: frames of [0, 1] were cast to uint8; round x * 255 instead")
    return array


def wrong_frames(frames: np.ndarray) -> str | None:
    """What keeps an array from being uint8 frames of 0 to 255, and how to mend it; None where nothing does."""
    if frames.dtype == np.uint8:
        return None
    if not np.issubdtype(frames.dtype, np.floating):
        return f"frames are {frames.dtype}: cast them to uint8, 0 to 255"
    low, high = (frames.min(), frames.max()) if frames.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        return "frames hold NaN or infinity: mend what made them"
    if low < 0:
        return f"frames are {frames.dtype} from {low:.3g} to {high:.3g}: from [-1, 1] round (x + 1) * 127.5 to uint8"
    if high <= 1:
        return f"frames are {frames.dtype} from {low:.3g} to {high:.3g}: from [0, 1] round x * 255 to uint8"
    return f"frames are {frames.dtype} from {low:.3g} to {high:.3g}: round them to uint8, 0 to 255"


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
        if held > MAX_NPZ_BYTES:
            raise UserError(f"{path}: {held} bytes are too many to decompress: save it as .npy, which is read in place")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

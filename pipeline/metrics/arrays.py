"""Videos in a .npy or .npz file: uint8 frames N T H W 3, looked at before they are trusted."""

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pipeline.errors import UserError, reading

LOOKED_AT_VIDEOS = 8  # of an array, whose values are looked at beforehand
MAX_NPZ_BYTES = 4 * 2**30  # of an array that is held in memory whole


def open_array(path: Path) -> UInt8[np.ndarray, "N T H W 3"]:
    """The videos of a .npy or .npz file, memory-mapped where the file allows it.

    Raises UserError, with the way out, where it holds no uint8 frames.
    """
    array = _load(path)
    if array.ndim != 5 or array.shape[-1] != 3:
        moved = array.ndim == 5 and array.shape[2] == 3
        way = "move the channels last (np.moveaxis(x, 2, -1))" if moved else "frames are uint8 N T H W 3"
        raise UserError(f"{path}: an array of shape {array.shape}: {way}")
    if not array.size:
        raise UserError(f"{path}: an array of shape {array.shape} holds no frame")
    if array.dtype != np.uint8:
        way = "give uint8 of 0 to 255: round x * 255 of [0, 1], (x + 1) * 127.5 of [-1, 1]"
        raise UserError(f"{path}: frames are {array.dtype}: {way}")
    if array[:LOOKED_AT_VIDEOS].max() == 1:
        raise UserError(f"{path}: no value above 1: frames of [0, 1] were cast to uint8; round x * 255 instead")
    return array


def _load(path: Path) -> np.ndarray:
    with reading(path, "save it as .npy anew"):
        return _load_npz(path) if path.suffix == ".npz" else np.lib.format.open_memmap(path, mode="r")


def _load_npz(path: Path) -> np.ndarray:
    """The one array of a .npz file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members)
            raise UserError(f"{path}: holds {names or 'nothing'}; give a file with one array")
        size = members[0].file_size  # no more is decompressed, whatever the array says of itself
        if size > MAX_NPZ_BYTES:
            raise UserError(f"{path}: {size} bytes are too many to decompress: save it as .npy, which is read in place")
        with archive.open(members[0]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

"""The listing: which files a data set has. The decode stage depends on it instead of on terabytes of video."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths, write_atomic

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mpe", "vob"),
        *("flv", "ogv", "3gp", "3g2", "wmv", "asf", "ts", "m2ts", "mts", "mxf"),
    )
)


def is_video(path: str) -> bool:
    """By its suffix; what is inside shows when it is decoded."""
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def list_files(root: Path, leave_out: Path | None = None) -> pd.DataFrame:
    """Video files under `root` and CSV files directly in it, sorted by path.

    Columns: path (posix, relative to the root), size (bytes), mtime (ns). Hidden files and folders are left out (and
    so are the `._*` files that macOS leaves on foreign disks), and `leave_out`, a listing that lies there itself.
    Links to folders are followed unless they lead back to a folder above themselves.

    Raises UserError where there is no such folder, no video in it, or a name that is not UTF-8.
    """
    if not root.is_dir():
        raise UserError(f"data.root: {root} is no folder; set it with `hvg recipe NAME --set data.root=PATH`")
    own = leave_out.resolve() if leave_out is not None else None
    rows = sorted(
        (path, status.st_size, status.st_mtime_ns)
        for path, status in _walk(root, "", frozenset())
        if is_video(path) or (path.lower().endswith(".csv") and "/" not in path and (root / path).resolve() != own)
    )
    if not any(is_video(path) for path, _, _ in rows):
        raise UserError(f"data.root: no video under {root}; set it with `hvg recipe NAME --set data.root=PATH`")
    for path, _, _ in rows:
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UserError(f"data.root: the file name {path!a} is not UTF-8; rename it, e.g. with `convmv`")
    return pd.DataFrame(rows, columns=["path", "size", "mtime"])


def _walk(folder: Path, inside: str, above: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not above:
            raise UserError(f"data.root: {folder} cannot be read: {error.strerror}") from error
        log.warning("%a is left out: %s", inside, error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{inside}{entry.name}/", above | {real})
        elif entry.is_file():
            yield f"{inside}{entry.name}", entry.stat()


def write_listing(root: Path, out: Path) -> bool:
    """List `root` into the CSV `out`; untouched where nothing changed, so that DVC sees no change either.

    Returns whether it was written.
    """
    content = listing_bytes(list_files(root, leave_out=out))
    if out.is_file() and out.read_bytes() == content:
        return False
    write_atomic(out, content)
    return True


def listing_bytes(listing: pd.DataFrame) -> bytes:
    """The CSV."""
    return listing.to_csv(index=False, lineterminator="\n").encode()


def read_listing(path: Path) -> pd.DataFrame:
    """The table that `write_listing` wrote. Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"data.listing: {path} does not exist; `hvg index` writes it")
    return pd.read_csv(path, dtype={"path": str, "size": "int64", "mtime": "int64"}, keep_default_na=False)


def data_root(params: Params, paths: Paths) -> Path:
    """The folder of the videos: data.root, absolute or from the project's root."""
    return paths.root / Path(params.data.root).expanduser()


def prepare_listing(params: Params, paths: Paths) -> bool:
    """Write data.listing from data.root, for `hvg recipe` and `hvg index`. Returns whether it changed.

    Nothing happens for rendered shapes: make-shapes writes their listing.
    """
    if params.rendered:
        return False
    return write_listing(data_root(params, paths), paths.root / params.data.listing)

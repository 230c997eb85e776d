"""The files under a folder: videos, and the tables that say what they are."""

import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from pipeline.errors import UserError
from pipeline.progress import progress

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mpe", "vob"),
        *("flv", "ogv", "3gp", "3g2", "wmv", "asf", "ts", "m2ts", "mts", "mxf"),
        *("m2v", "f4v", "divx", "dv", "ivf", "h264", "hevc"),
    )
)


def is_video(path: str) -> bool:
    """By its suffix; what is inside shows when it is decoded."""
    return posixpath.splitext(path)[1].lower() in VIDEO_SUFFIXES


def list_files(root: Path, reads: Callable[[str], bool], leave_out: Iterable[Path] = ()) -> pd.DataFrame:
    """Video files under `root` and the others that `reads` asks for by their paths, sorted by path.

    Columns: path (posix, relative to the root), size (bytes), mtime (ns). Hidden files and folders are left out (and
    so are the `._*` files that macOS leaves on foreign disks), and `leave_out`: files and folders that lie there, but
    are no part of the data. Links to folders are followed unless they lead back to a folder above themselves. Left out
    with a warning is what cannot be looked at, such as a link that leads nowhere.

    Raises UserError where there is no such folder, no video in it, or a name that is not UTF-8.
    """
    if not root.is_dir():
        raise UserError(f"data.root: {root} is no folder; set it with `hvg recipe NAME --set data.root=PATH`")
    top = root.resolve()
    others = [path.resolve() for path in leave_out]
    left = frozenset(path.relative_to(top).as_posix() for path in others if path.is_relative_to(top))
    rows = []
    for path, entry in progress(_walk(root, "", frozenset(), left), desc="list", unit="files"):
        if not (is_video(path) or reads(path)):
            continue
        try:
            status = entry.stat()
        except OSError as error:  # a link that leads nowhere, a file that is deleted meanwhile
            log.warning("%a is left out: %s", path, error.strerror)
            continue
        if stat.S_ISREG(status.st_mode):
            rows.append((path, status.st_size, status.st_mtime_ns))
    rows.sort()
    if not any(is_video(path) for path, _, _ in rows):
        raise UserError(f"data.root: no video under {root}; set it with `hvg recipe NAME --set data.root=PATH`")
    for path, _, _ in rows:
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UserError(f"data.root: the file name {path!a} is not UTF-8; rename it, e.g. with `convmv`")
    return pd.DataFrame(rows, columns=["path", "size", "mtime"])


def _walk(
    folder: Path, inside: str, above: frozenset[str], left: frozenset[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
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
        path = f"{inside}{entry.name}"
        if entry.name.startswith(".") or path in left:
            continue
        try:
            folder_too = entry.is_dir()
        except OSError as error:  # a link in a circle, or into what may not be entered
            log.warning("%a is left out: %s", path, error.strerror)
            continue
        if folder_too:
            yield from _walk(Path(entry.path), f"{path}/", above | {real}, left)
        else:
            yield path, entry


def listing_bytes(listing: pd.DataFrame) -> bytes:
    """What `list_files` found, as CSV."""
    return listing.to_csv(index=False, lineterminator="\n").encode()

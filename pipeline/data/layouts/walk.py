"""The files under a folder: videos, and the tables that say what they are."""

import itertools
import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from pipeline.data.video.images import IMAGE
from pipeline.errors import UserError
from pipeline.progress import progress

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mpe", "vob"),
        *("flv", "ogv", "gif", "3gp", "3g2", "wmv", "asf", "ts", "m2ts", "mts", "mxf"),
        *("m2v", "f4v", "divx", "dv", "ivf", "h264", "hevc"),
    )
)


def is_image(path: str) -> bool:
    """Whether a file may be a frame of the video that its folder is."""
    folder, name = posixpath.split(path)
    return bool(folder) and IMAGE.fullmatch(name) is not None


def video_of(path: str) -> str:
    """The video that a file belongs to: itself, or its folder."""
    return posixpath.dirname(path) if is_image(path) else path


def videos_of(paths: Sequence[str]) -> list[str]:
    """The videos among files, sorted. Images beside a video are none, but its pictures; see `pictures_of`."""
    files = set(filter(is_video, paths))
    return sorted(files | _folders(filter(is_image, paths)) - _folders(files))


def pictures_of(paths: Sequence[str]) -> list[str]:
    """The folders whose images are no video, as a video file lies beside them, perhaps a preview of them; sorted."""
    return sorted(_folders(filter(is_image, paths)) & _folders(filter(is_video, paths)))


def _folders(paths: Iterable[str]) -> set[str]:
    return set(map(posixpath.dirname, paths))


def is_video(path: str) -> bool:
    """By its suffix; what is inside shows when it is decoded."""
    return posixpath.splitext(path)[1].lower() in VIDEO_SUFFIXES


def list_files(root: Path, reads: Callable[[str], bool], leave_out: Iterable[Path] = ()) -> pd.DataFrame:
    """Video files under `root` and the others that `reads` asks for by their paths, sorted by path; see `files_below`.

    Columns: path (posix, relative to the root), size (bytes), mtime (ns).

    Raises UserError where there is no such folder, no video in it, or a name that is not UTF-8.
    """
    way_out = "set it with `hvg recipe NAME --set data.root=PATH`; data.image_rate takes folders of images"
    if not root.is_dir():
        raise UserError(f"data.root: {root} is no folder; {way_out}")
    files = files_below(root, lambda path: is_video(path) or reads(path), leave_out)
    if not any(is_video(path) or is_image(path) for path, *_ in files):
        raise UserError(f"data.root: no video under {root}; {way_out}")
    return pd.DataFrame(files, columns=["path", "size", "mtime"])


def files_below(
    root: Path, chosen: Callable[[str], bool], leave_out: Iterable[Path] = ()
) -> list[tuple[str, int, int]]:
    """(path, bytes, mtime in ns) of the files under a folder that are chosen by their paths: posix, relative, sorted.

    Hidden files and folders are left out (and so are the `._*` files that macOS leaves on foreign disks), and
    `leave_out`: files and folders that lie there, but are no part of the data. Links to folders are followed unless
    they lead back to a folder above themselves. Left out with a warning is what cannot be looked at, such as a link
    that leads nowhere.

    Raises UserError where the folder cannot be read, and for a name that is not UTF-8.
    """
    top = root.resolve()
    others = [path.resolve() for path in leave_out]
    left = frozenset(path.relative_to(top).as_posix() for path in others if path.is_relative_to(top))
    walk = progress(_walk(root, "", frozenset(), left), desc="list", unit="files")
    entries = ((path, entry) for path, entry in walk if chosen(path))
    found = []
    with ThreadPoolExecutor(32) as pool:  # one by one takes minutes on a file system far away
        while batch := list(itertools.islice(entries, 4096)):
            found += [row for row in pool.map(lambda file: _row(*file), batch) if row is not None]
    found.sort()
    for path, *_ in found:
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UserError(f"{root}: the file name {path!a} is not UTF-8; rename it, e.g. with `convmv`")
    return found


def _row(path: str, entry: os.DirEntry[str]) -> tuple[str, int, int] | None:
    """Of a file; None for what is none, or cannot be looked at."""
    try:
        status = entry.stat()
    except OSError as error:  # a link that leads nowhere, a file that is deleted meanwhile
        log.warning("%a is left out: %s", path, error.strerror)
        return None
    return (path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


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
            raise UserError(f"{folder} cannot be read: {error.strerror}") from error
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

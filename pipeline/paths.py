"""Where everything lies, relative to the project's root; and how a finished folder gets its name."""

import contextlib
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """The project's files. `root` holds dvc.yaml and params.yaml; commands and stages run in it."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def pyramid(self) -> Path:
        return self.root / "data" / "pyramid"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def state(self) -> Path:
        """What is no output: resume folders, logs of jobs, the local server's home."""
        return self.root / ".hvg"

    def samples(self, level: int) -> Path:
        return self.root / "data" / "samples" / f"level-{level}"

    def artifact(self, level: int) -> Path:
        return self.root / "artifacts" / f"level-{level}"

    def work(self, stage: str, inputs: str, out: Path) -> Path:
        """The folder in which a stage works until it publishes `out`: it outlives a kill, other inputs have another.

        It lies in the origin checkout: the copy that an experiment of DVC's runs in may be gone when it goes on.
        Raises UserError where it is on another disk than `out`, to which it is renamed in the end.
        """
        folder = Paths(origin(self.root)).state / "work" / f"{stage}-{inputs[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        there = next(parent for parent in out.absolute().parents if parent.exists())
        if folder.stat().st_dev != there.stat().st_dev:
            raise UserError(
                f"{there} and {folder.parent} are on two file systems, and what is finished is renamed from one to the"
                f" other: put both on one, for instance by making {folder.parents[1]} a link to a folder beside {there}"
            )
        return folder


@dataclass(frozen=True)
class Made:
    """What a stage last published from certain inputs, so that it is not made again for an edit that is none of them.

    The record lies in the origin checkout, under the inputs' name, and holds a hash of every byte of `out`.
    """

    out: Path
    record: Path

    @classmethod
    def of(cls, paths: Paths, out: Path, inputs: str) -> "Made":
        return cls(out, Paths(origin(paths.root)).state / "made" / f"{out.parent.name}-{out.name}-{inputs}")

    def unchanged(self) -> bool:
        """Whether `out` is still that, to the byte."""
        return self.record.is_file() and self.out.is_dir() and self.record.read_text() == _digest(self.out)

    def keep(self) -> None:
        """Record `out` as it is now."""
        write_atomic(self.record, _digest(self.out))


def _digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
        hashes = pool.map(_file_digest, files)
        lines = [f"{file.relative_to(folder)} {of_file}\n" for file, of_file in zip(files, hashes, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone(work: Path, rank: int = 0) -> Iterator[None]:
    """Wait until no other job is in this block with the same work folder: two experiments may come to the same work.

    The one that waited finds what the first has done. Of a job's workers it is the first that waits; the others meet it
    later.
    """
    if rank:
        yield
        return
    from filelock import FileLock, Timeout  # where stages work alone: reading a path takes no library

    file = work.parents[1] / "locks" / f"{work.name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is at the same work, %s: waiting for it", work)
        lock.acquire()
    try:
        work.mkdir(parents=True, exist_ok=True)  # the one before may have cleared it away
        yield
    finally:
        lock.release()


def origin(root: Path) -> Path:
    """The checkout that a folder belongs to: DVC runs experiments in copies under .dvc/tmp/exps of it."""
    resolved = root.resolve()
    for folder in resolved.parents:
        if folder.match("*/.dvc/tmp/exps"):
            return folder.parents[2]
    return root


def publish(finished: Path, out: Path) -> None:
    """Give a finished folder (or file) its final name, in place of what bore that name.

    Both lie on one file system. At no moment is `out` half written; the old one is gone only once the new one is
    ready. Where `out` is a link, the link is replaced and what it leads to is left alone.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    if out.exists() or out.is_symlink():
        out.rename(aside)
    try:
        finished.rename(out)
    except OSError:
        if aside.exists() or aside.is_symlink():
            aside.rename(out)
        raise
    for old in out.parent.glob(f".{out.name}.{'[0-9a-f]' * 32}"):  # also what a kill left here
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()


def write_atomic(path: Path, content: str | bytes | memoryview) -> None:
    """Write a whole file or nothing: to a temporary name, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

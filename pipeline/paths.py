"""Where everything lies, relative to the project's root; and how a finished folder gets its name."""

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
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

    @property
    def replaced(self) -> tuple[Path, Path]:
        """Where training, and DVC before it, replaces what a level might begin from."""
        return self.root / "artifacts", self.state / "work"

    def conditions(self, level: int) -> Path:
        """The store of what the level above is trained on."""
        return self.root / "data" / "conditions" / f"level-{level}"

    def samples(self, level: int) -> Path:
        """The folder of the stores "videos", "figures" and, of the top level, "windows" (generation/source.py)."""
        return self.root / "data" / "samples" / f"level-{level}"

    def artifact(self, level: int) -> Path:
        return self.root / "artifacts" / f"level-{level}"

    def work(self, stage: str, inputs: str, out: Path) -> Path:
        """The folder in which a stage works until it publishes `out`: it outlives a kill, other inputs have another.

        It lies in the origin checkout: the copy that an experiment of DVC's runs in may be gone when it goes on.
        Raises UserError where it cannot be renamed to `out` in the end: on another disk, or not to be written to.
        """
        folder = Paths(origin(self.root)).state / "work" / f"{stage}-{inputs[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        there = next(parent for parent in out.absolute().parents if parent.exists())
        if not os.access(there, os.W_OK):
            raise UserError(f"{there} may not be written to, and {out} is to be in it: mend that first")
        if folder.stat().st_dev != there.stat().st_dev:
            raise UserError(
                f"{there} and {folder.parent} are on two file systems, and what is finished is renamed from one to the"
                f" other: put both on one, for instance by making {folder.parents[1]} a link to a folder beside {there}"
            )
        return folder


@dataclass(frozen=True)
class Made:
    """What a stage last published as `out`, kept by hard links for a run with the same inputs.

    DVC removes an output before it runs a stage, also for an edit of code that changes no result. The links lie in the
    origin checkout and take no room while the output, or DVC's cache of it, is there.
    """

    out: Path
    inputs: str
    folder: Path

    @classmethod
    def of(cls, paths: Paths, out: Path, inputs: str) -> "Made":
        return cls(out, inputs, Paths(origin(paths.root)).state / "made" / f"{out.parent.name}-{out.name}")

    def restore(self) -> bool:
        """Publish again what was made of these inputs. False where there is nothing, or it was changed since."""
        files, facts = self.folder / "files", self.folder / "facts"
        with alone(self.folder):
            if not facts.is_file() or facts.read_text() != self._facts(files):
                shutil.rmtree(self.folder)  # nobody's any more
                return False
            again = self.folder / "again"
            shutil.rmtree(again, ignore_errors=True)  # of a run that was killed here
            shutil.copytree(files, again, copy_function=os.link)
            publish(again, self.out)
        return True

    def keep(self, finished: Path) -> None:
        """Keep what is about to be published, in place of what was kept before: from then on a kill costs nothing."""
        files = self.folder / "files"
        with alone(self.folder):
            shutil.rmtree(self.folder)
            try:
                shutil.copytree(finished, files, copy_function=os.link)
            except OSError as error:
                log.info("%s is not kept beside: no hard links here (%s)", self.out, error)
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            write_atomic(self.folder / "facts", self._facts(files))

    def _facts(self, files: Path) -> str:
        """The inputs, and every file by what a change of it changes."""
        stats = [(file.relative_to(files), file.stat()) for file in sorted(files.rglob("*")) if file.is_file()]
        return "\n".join([self.inputs, *(f"{stat.st_size} {stat.st_mtime_ns} {path}" for path, stat in stats)])


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


def lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path, wherever links lead it, is one of the folders or in one."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


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

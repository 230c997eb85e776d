"""What a tracking server has still to be told of a run: a file of JSON lines, which outlives the process.

It has no idea of MLflow. Its first line says which run it tells of; each further line is one thing to tell, in order.
Telling a thing twice does no harm, so a line goes away only once it is known to have arrived.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.paths import write_atomic

log = logging.getLogger(__name__)

LIMIT = 256 * 2**20  # bytes that may wait for a server, files included; a number takes about 30


class Journal:
    """The journal of one run, for as long as this process holds it."""

    def __init__(self, path: Path, lock: FileLock, size: int) -> None:
        self.path = path
        self._lock = lock
        self._size = size
        self._writing = threading.RLock()  # numbers of the machine come from a thread of their own

    @classmethod
    def begin(cls, folder: Path, head: Mapping[str, Any]) -> "Journal":
        """A new journal in `folder`, held until `release` or this process's end."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.jsonl"
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
        write_atomic(path, _line(head))
        return cls(path, lock, 0)

    @property
    def head(self) -> dict[str, Any]:
        """The first line."""
        with self.path.open("rb") as file:
            return json.loads(file.readline())

    def rename(self, head: Mapping[str, Any]) -> None:
        """Replace the first line."""
        with self._writing, self.path.open("rb") as file:
            file.readline()
            write_atomic(self.path, _line(head) + file.read())

    def add(self, entry: Mapping[str, Any], file: Path | None = None) -> None:
        """Something to tell. Of a `file` a copy is kept until it has arrived; the entry then names it under "file".

        Beyond LIMIT numbers and files are not kept, which is said once; parameters and the run's end are.
        """
        with self._writing:
            full = self._size > LIMIT
            if full and ("metrics" in entry or file is not None):
                return
            if file is not None:
                copy = self._files / uuid.uuid4().hex[:8] / file.name
                copy.parent.mkdir(parents=True)
                shutil.copyfile(file, copy)
                entry = {**entry, "file": str(copy.relative_to(self._files))}
                self._size += copy.stat().st_size
            line = _line(entry)
            with self.path.open("ab") as out:
                out.write(line)
            self._size += len(line)
            if self._size > LIMIT and not full:
                log.warning("%s holds %d MiB: numbers and files after this are lost", self.path, LIMIT >> 20)

    def entries(self) -> Iterator[tuple[dict[str, Any], int]]:
        """What is to be told, each with the place in the file that `arrived` takes."""
        with self.path.open("rb") as file:
            file.readline()
            while line := file.readline():
                try:
                    entry = json.loads(line)
                except ValueError:  # the last one, of a process that was killed while it wrote
                    continue
                yield entry, file.tell()

    def file(self, entry: Mapping[str, Any]) -> Path:
        """The copy of an entry's file."""
        return self._files / entry["file"]

    def arrived(self, place: int) -> None:
        """Everything before `place` need not be told again."""
        with self._writing:
            with self.path.open("rb") as file:
                head = file.readline()
                file.seek(place)
                rest = file.read()
            write_atomic(self.path, head + rest)
            if not rest:
                shutil.rmtree(self._files, ignore_errors=True)
            self._size = len(rest) + sum(file.stat().st_size for file in self._files.rglob("*") if file.is_file())

    def release(self) -> None:
        """Leave it to others, or remove it where nothing is left to tell."""
        if next(self.entries(), None) is None:
            self.path.unlink()
            shutil.rmtree(self._files, ignore_errors=True)
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    @property
    def _files(self) -> Path:
        return self.path.with_suffix("")


def abandoned(folder: Path) -> Iterator[Journal]:
    """The journals in `folder` that no living process holds, oldest first; each is held until it is released."""
    for path in sorted(folder.glob("*.jsonl")):
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if not path.is_file():  # told by another process meanwhile
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
            continue
        yield Journal(path, lock, path.stat().st_size)


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"

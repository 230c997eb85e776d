"""The checkout that runs: its name, its commit, what git knows of it."""

import logging
import subprocess
import uuid
from pathlib import Path

from filelock import FileLock

from pipeline.paths import Paths, origin, write_atomic
from pipeline.system.yaml import shortened

log = logging.getLogger(__name__)

GIT = "git"  # named here alone


def name_of(root: Path) -> str:
    """The checkout's random name, made once: nodes may see the same folder under other paths."""
    state = Paths(origin(root)).state
    file = state / "tracking" / "id"
    if not file.is_file():
        with FileLock(state / "tracking.lock"):  # the first two stages must not make two
            if not file.is_file():
                write_atomic(file, uuid.uuid4().hex)
    return file.read_text().strip()


def revision(root: Path) -> tuple[str, bool]:
    """The commit, and whether tracked files differ from it. No commit where there is no git or no repository."""
    command = [GIT, "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        described = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "", False
    commit, _, dirty = described.partition("-")
    return commit, bool(dirty)


def in_git(root: Path) -> bool:
    """Whether there is a repository, of this folder or one above it."""
    return any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents))


def track(root: Path, file: Path) -> None:
    """Have git know a file, ignored or not: experiments of DVC's run in copies that hold nothing else.

    Nothing happens where `root` is no repository of its own. Where git refuses, as a path beyond a symbolic link, a
    warning has its words: nothing but such experiments lacks the file.
    """
    if not (root / ".git").exists():  # another repository, around this folder, is not ours to stage anything in
        return
    try:
        subprocess.run([GIT, "-C", root, "add", "--force", "--", file.absolute()], check=True, capture_output=True)
    except FileNotFoundError:
        return
    except subprocess.CalledProcessError as error:
        said = shortened(error.stderr.decode(errors="replace"), 300)
        log.warning("%s is not in git, so that DVC's experiments in copies lack it: %s", file, said)

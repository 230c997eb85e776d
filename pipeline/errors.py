"""What a user can cause and mend."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_REFUSALS = (
    *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)),
    *map(os.strerror, (errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EEXIST)),
    "disk is full",  # SQLite's words
    "readonly database",
)


class UserError(ValueError):
    """A mistake in a parameter, a file or the machine's set-up: one line that names it and the way out.

    Commands and stages print it without a traceback and exit with code 2. Anything else is a bug and keeps its own.
    """


@contextlib.contextmanager
def reading(path: Path, way_out: str) -> Iterator[None]:
    """UserError for whatever comes of reading `path`: of damaged bytes a reader raises anything.

    A device or a pipe, which may never end, is not read at all.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: neither a file nor a folder; {way_out}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: cannot be read ({reason:.200}); {way_out}") from error


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """UserError for what a disk or its rights refuse, by the words of whatever library met it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if "AF_UNIX" in said:  # of the processes that a stage starts
            folder = tempfile.gettempdir()
            raise UserError(f"TMPDIR: {folder} is too long a path for sockets; set a shorter one") from error
        if not any(refusal in said for refusal in _REFUSALS):
            raise
        if isinstance(error, FileExistsError) and (there := Path(str(error.filename))).is_symlink():
            said = f"{said}, a link to {there.readlink()}" + ("" if there.exists() else ", which does not exist")
        raise UserError(f"in {Path.cwd()}: {said:.300}; mend that, and the same command goes on") from error


class Failed(RuntimeError):
    """What ended badly and is nobody's mistake: one line, and exit code 1."""

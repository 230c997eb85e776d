"""A job's output on its way from its log to the screen and, line by line, to Prefect."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path


class Output:
    """What a job appends to `log` from now on: shown as it is, and given line by line to `on_line`.

    The screen shows live bars as they move; lines are what a terminal would show in the end, after the last carriage
    return.
    """

    def __init__(self, log: Path, on_line: Callable[[str], None]) -> None:
        self.log, self.on_line = log, on_line
        self._place = log.stat().st_size if log.is_file() else 0
        self._pending = b""  # an unfinished line

    def show(self) -> None:
        """Show what is new. Raises OSError while the log cannot be read."""
        with self.log.open("rb") as log:  # anew each time: so NFS shows what other machines have written
            log.seek(self._place)
            data = log.read()
        self._place += len(data)
        self._pass_on(data)

    def close(self) -> None:
        """Show the rest, which may end within a line."""
        with contextlib.suppress(OSError):
            self.show()
        if self._pending:
            self._pass_on(b"\n")

    def _pass_on(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a closed terminal, `| head` that has had enough: the job goes on
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
            if text.strip():
                self.on_line(text)

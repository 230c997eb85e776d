"""A job's output on its way to the screen, to a log and, line by line, to Prefect."""

import sys
from collections.abc import Callable
from pathlib import Path


class Output:
    """What a job prints: shown as it is, kept in `log` where there is one, and given line by line to `on_line`.

    The screen shows live bars as they move; lines are what a terminal would show in the end, after the last carriage
    return.
    """

    def __init__(self, on_line: Callable[[str], None], log: Path | None = None) -> None:
        self.on_line = on_line
        self._log = log.open("ab", buffering=0) if log else None
        self._sinks = [sys.stdout.buffer, *([self._log] if self._log else [])]
        self._pending = b""  # an unfinished line

    def feed(self, data: bytes) -> None:
        for sink in [*self._sinks]:
            try:
                sink.write(data)
                sink.flush()
            except OSError:  # a closed terminal, `| head` that has had enough, a full disk: the job goes on
                self._sinks.remove(sink)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
            if text.strip():
                self.on_line(text)

    def close(self) -> None:
        if self._pending:
            self.feed(b"\n")
        self._sinks.clear()  # what somebody still feeds is shown no more
        if self._log:
            self._log.close()

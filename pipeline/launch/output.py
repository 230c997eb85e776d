"""A job's output on its way to the screen, to a log and, line by line, to Prefect."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.stage import LABEL, LAST_WORD

BEGIN = (
    f"{LAST_WORD}begin "  # and a number: a cluster's job begins, perhaps anew; what was said before no longer counts
)


class Output:
    """What a job prints: shown as it is, kept in `log` where there is one, and given line by line to `on_line`.

    The screen shows live bars as they move; lines are what a terminal would show in the end, after the last carriage
    return. From a stage's last word on, and from the first traceback after `stopping` is set, everything goes to the
    log alone: it is torchrun's report. With `labelled`, where lines of stages begin with node and rank, all that has no
    label from the first traceback on is such a report. A line with BEGIN, which is not shown, ends what was muted.
    """

    def __init__(self, on_line: Callable[[str], None], log: Path | None = None, *, labelled: bool = False) -> None:
        self.on_line = on_line
        self.labelled = labelled
        self.last_word: tuple[int, str] | None = None  # exit code, message
        self.stopping = False
        self._over = False  # nothing more is shown
        self._report = False  # … but lines with a label
        self._log = log.open("ab") if log else None
        self._pending = b""  # an unfinished line
        self._shown = 0  # how much of it is on the screen

    def feed(self, data: bytes) -> None:
        if self._log:
            self._log.write(data)
            self._log.flush()
        *lines, rest = (self._pending + data).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        self._pending = rest
        if LAST_WORD.encode() not in rest and not self.stopping and not self.labelled:
            self._show(rest)

    def close(self) -> None:
        if self._pending:
            self._line(self._pending + b"\n")
        if self._log:
            self._log.close()

    def _show(self, line: bytes) -> None:
        if self._over:
            return
        sys.stdout.buffer.write(line[self._shown :])
        sys.stdout.buffer.flush()
        self._shown = len(line)

    def _line(self, line: bytes) -> None:
        before, _, after = line.partition(LAST_WORD.encode())
        if re.fullmatch(rb"begin \d+\n", after):
            if before:  # what broke off
                self._line(before + b"\n")
            self.last_word = None
            self._over = self._report = False
            return
        word = re.fullmatch(r"exit (\d+) ?(.*)\n", after.decode(errors="replace"))
        if word:
            # A worker that waits for one with a mistake fails as well, and may say so first.
            if self.last_word is None or (self.last_word[0] != 2 and word[1] == "2"):
                self.last_word = int(word[1]), word[2].strip()
            label = re.fullmatch(LABEL, before.decode(errors="replace"))
            line = before + b"\n" if before and not label else b""
        torchruns = self.labelled and not re.match(LABEL, line.decode(errors="replace"))
        self._report |= torchruns and line.startswith(b"Traceback")
        self._over |= self.stopping and line.startswith(b"Traceback")
        if not self._over and not (self._report and torchruns):
            self._show(line)
            text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
            if text.strip():
                self.on_line(text)
        self._over |= self.last_word is not None
        self._shown = 0

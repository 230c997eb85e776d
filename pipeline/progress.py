"""One progress bar for all long work: live on a terminal, a plain line now and then in a log."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# The launcher's terminal, in columns. A stage writes to a pipe, and only the launcher knows what is at its other end.
COLUMNS = "HVG_COLUMNS"
LINE_SECONDS = 10.0  # between the plain lines


class _Lines(tqdm):
    """tqdm without a terminal: whole lines, no carriage return, one at the end."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n and msg != "":  # neither the empty line of the start nor tqdm's clearing at the end
            self.fp.write(f"{msg or self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Nothing to clear: a written line stays."""

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        super().set_postfix(*args, **{**kwargs, "refresh": False})  # shown by the next line; not a line a change

    def close(self) -> None:
        if not self.disable and self.n != self.last_print_n:
            self.display()
        self.leave = False  # so that tqdm's own close writes no bar
        super().close()


def live() -> bool:
    """Whether what this process writes to stderr ends at a terminal."""
    return COLUMNS in os.environ or sys.stderr.isatty()


def progress(iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str, unit: str) -> Any:
    """A tqdm over `iterable`, or one of `total` steps for `update()`; `set_postfix()` shows numbers beside it.

    On a terminal it is a live bar, elsewhere a plain line every ten seconds and at the end. Of several workers only
    rank 0 shows one.
    """
    make: Any = tqdm if live() else _Lines  # Any: tqdm's types know no options gathered in a dict
    options: dict[str, Any] = {"total": total, "desc": desc}
    options["disable"] = os.environ.get("RANK", "0") != "0"
    if live():
        columns = os.environ.get(COLUMNS)
        width = {"ncols": int(columns)} if columns else {"dynamic_ncols": True}
        return make(iterable, **options, **width, unit=f" {unit}")
    known = total is not None or hasattr(iterable, "__len__")
    counted = "{n_fmt}/{total_fmt} {unit}, {elapsed} gone, {remaining} left" if known else "{n_fmt} {unit}, {elapsed}"
    every = {"mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS}
    return make(iterable, **options, **every, unit=unit, bar_format=f"{{desc}}: {counted}{{postfix}}")


def write_line(line: str) -> None:
    """Write a line to stderr without tearing a live bar."""
    if live():
        tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()

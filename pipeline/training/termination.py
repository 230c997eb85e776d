"""TERM and Ctrl-C: a training process ends at once, or after the iteration at hand."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

EXIT = 128 + signal.SIGTERM
_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # Ctrl-C is torchrun's, or that of a run by hand


class Termination:
    """Whether a signal came, and what one does: SystemExit(143) wherever the process is, or after a held block.

    Whoever sends the signal gives a held block some time and then sends KILL: this module does not.
    """

    def __init__(self) -> None:
        self.came = False
        self.kept = "before training; what was saved earlier is as it was"  # what is saved and what is not
        self._held = False

    def hear(self, *_: Any) -> None:
        """A signal's handler. What is saved is said at once: the iteration at hand may take longer than there is."""
        self.came = True
        if self._held:  # no logging: the block may be in the middle of a line
            with suppress(OSError):  # a closed pipe: `| tee` hears Ctrl-C too
                os.write(2, f"\nstopping after the iteration at hand; until then {self.kept}\n".encode())
        self._leave()

    @contextmanager
    def held(self, held: bool = True) -> Iterator[None]:
        """A signal does not end the block, which asks whether one `came`; or, within it, a block that it may end."""
        before, self._held = self._held, held
        try:
            self._leave()
            yield
        finally:
            self._held = before
        self._leave()

    def _leave(self) -> None:
        if self.came and not self._held:
            raise SystemExit(EXIT)


@contextmanager
def termination() -> Iterator[Termination]:
    """On a signal the block ends as its `Termination` says, and a line says what is saved and what is not."""
    state = Termination()
    before = {number: signal.signal(number, state.hear) for number in _SIGNALS}
    try:
        yield state
    except SystemExit:
        log.warning("stopped: %s", state.kept)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""TERM and Ctrl-C: a training process ends at once, or after the iteration at hand, and in any case in time."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

EXIT = 128 + signal.SIGTERM
LIMIT_SECONDS = 20.0  # from the signal to the end, whatever goes on: our launcher sends KILL after 21
_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # Ctrl-C is torchrun's, or that of a run by hand


class Termination:
    """Whether a signal came, and what one does: SystemExit(143) wherever the process is, or after a held block."""

    def __init__(self) -> None:
        self.came = False
        # Says what is saved and what is not, from any thread, without a lock.
        self.kept: Callable[[], str] = lambda: "before training; what was saved earlier is as it was"
        self._held = False

    def hear(self, *_: Any) -> None:
        """A signal's handler."""
        self.came = True
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
def termination(limit: float = LIMIT_SECONDS) -> Iterator[Termination]:
    """On a signal the block ends as its `Termination` says, and `limit` seconds later the process does.

    Either way a line says what is saved and what is not. Python runs a handler between two of its own instructions: a
    process inside a library, waiting for a worker that is gone, for a compiler or for a file system, would not hear a
    signal. A thread does, and it ends the process.
    """
    state = Termination()
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    threading.Thread(target=_end_in_time, args=(heard, limit, state), daemon=True).start()
    before = {number: signal.signal(number, state.hear) for number in _SIGNALS}
    wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield state
    except SystemExit:
        log.warning("stopped: %s", state.kept())
        raise
    finally:
        signal.set_wakeup_fd(wake_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)


def _end_in_time(heard: int, limit: float, state: Termination) -> None:
    """Read the signals that come until there can be no more; `limit` seconds after the first nothing is left."""
    while signals := os.read(heard, 64):
        if any(number in signals for number in _SIGNALS):
            time.sleep(limit)
            # No logging: whatever holds the process up may hold its lock.
            os.write(2, f"stopped, not ended {limit:g} seconds after the signal: {state.kept()}\n".encode())
            os._exit(EXIT)
    os.close(heard)

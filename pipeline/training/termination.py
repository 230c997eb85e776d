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


def _nothing_yet() -> str:
    return "before training; what was saved earlier is as it was"


_kept: Callable[[], str] = _nothing_yet


@contextmanager
def termination(limit: float = LIMIT_SECONDS) -> Iterator[None]:
    """On a signal the block ends with SystemExit(143) wherever it is, and `limit` seconds later the process does.

    Either way a line says what is saved and what is not, as `held` was told. Python runs a handler between two of its
    own instructions: a process inside a library, waiting for a worker that is gone, for a compiler or for a file
    system, would not hear a signal. A thread does, and it ends the process.
    """
    global _kept

    def leave(*_: Any) -> None:
        raise SystemExit(EXIT)

    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    threading.Thread(target=_end_in_time, args=(heard, limit), daemon=True).start()
    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
    except SystemExit:
        log.warning("stopped: %s", _kept())
        raise
    finally:
        _kept = _nothing_yet
        signal.set_wakeup_fd(wake_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)


def _end_in_time(heard: int, limit: float) -> None:
    """Read the signals that come until there can be no more; `limit` seconds after the first nothing is left."""
    while signals := os.read(heard, 64):
        if any(number in signals for number in _SIGNALS):
            time.sleep(limit)
            # No logging: whatever holds the process up may hold its lock.
            os.write(2, f"stopped, not ended {limit:g} seconds after the signal: {_kept()}\n".encode())
            os._exit(EXIT)
    os.close(heard)


@contextmanager
def held(kept: Callable[[], str] | None = None) -> Iterator[Callable[[], bool]]:
    """A signal does not end the block, which asks whether one came. If so, SystemExit(143) follows the block.

    kept: says from now on what is saved and what is not, from any thread, without a lock.
    """
    global _kept
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    _kept = kept or _kept
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise SystemExit(EXIT)

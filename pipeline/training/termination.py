"""SIGTERM: a training process ends at once, or after the iteration at hand, and in any case in time."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXIT = 128 + signal.SIGTERM
LIMIT = 27.0  # seconds from TERM to the end, whatever goes on: torchrun and our launcher send KILL after 30


@contextmanager
def termination(limit: float = LIMIT) -> Iterator[None]:
    """On SIGTERM the block ends with SystemExit(143) wherever it is, and `limit` seconds later the process does.

    Python runs a handler between two of its own instructions: a process inside a library, waiting for a worker that is
    gone, for a compiler or for a file system, would not hear TERM. A thread does, and it ends the process.
    """

    def leave(*_: Any) -> None:
        raise SystemExit(EXIT)

    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    threading.Thread(target=_end_in_time, args=(heard, limit), daemon=True).start()
    before = signal.signal(signal.SIGTERM, leave)
    wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wake_before)
        signal.signal(signal.SIGTERM, before)
        os.close(wake)


def _end_in_time(heard: int, limit: float) -> None:
    """Read the signals that come until there can be no more; `limit` seconds after TERM nothing is left."""
    while signals := os.read(heard, 64):
        if signal.SIGTERM in signals:
            time.sleep(limit)
            # No logging: whatever holds the process up may hold its lock.
            os.write(2, f"not ended {limit:g} seconds after TERM: stopped\n".encode())
            os._exit(EXIT)
    os.close(heard)


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """SIGTERM does not end the block, which asks whether it came. If it came, SystemExit(143) follows the block."""
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        raise SystemExit(EXIT)

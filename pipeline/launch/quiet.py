"""Prefect's log lines go to its server and not to the terminal, and a process that is to end does so soon."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from pipeline.launch.stopping import LEAVE_SECONDS

FLUSH = 10.0  # seconds that Prefect's server may take for what it has not been told yet


@contextlib.contextmanager
def only_prefect_is_told() -> Iterator[None]:
    """What flows and tasks log in the block goes to Prefect's server; at its end the server has it all."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for runs in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(runs).setLevel(logging.INFO)
        logging.getLogger(runs).propagate = False  # to the terminal: what is in there stands on it already
    try:
        yield
    finally:
        # Lines and states are still on their way, and the server may end with this call. Prefect itself would send
        # them at the interpreter's end, and try for minutes.
        EventsWorker.drain_all(timeout=FLUSH)
        APILogWorker.drain_all(timeout=FLUSH)


def leave_soon(error: BaseException) -> None:
    """After Ctrl-C, TERM (which Prefect makes a signal of its own) or an exit, end this process in a few seconds.

    What it ran is stopped, and Prefect tries for minutes to tell a server that is gone as well. Servers that this
    process has started end with it.
    """
    code = 130 if isinstance(error, KeyboardInterrupt) else 143
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()

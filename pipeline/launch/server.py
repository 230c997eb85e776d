"""A Prefect server for the time of a run, where none answers."""

import contextlib
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.tether import tethered
from pipeline.urls import without_secrets

log = logging.getLogger(__name__)

API_URL = "PREFECT_API_URL"
START = 120.0  # seconds that a server may take: a new database on a busy disk


def answers(url: str, timeout: float = 5) -> bool:
    """Whether a Prefect API answers at `url` (http://host:port/api)."""
    try:
        parts = urlsplit(url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(parts.netloc.rpartition("@")[2], timeout=timeout)
    except (ValueError, http.client.InvalidURL):
        return False
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def prefect_server(state: Path) -> Iterator[str]:
    """The URL of a Prefect API: the one at PREFECT_API_URL if it answers, else a server that lives as long as this.

    The own server listens on a free port of the loopback interface; its database and settings lie in `state`/prefect
    and outlive it, so that its pages show earlier runs as well. Its processes end with this one, however that ends.

    Raises UserError with the place of its log where the server does not start.
    """
    given = os.environ.get(API_URL)
    if given and answers(given):
        yield given
        return
    if given:
        log.warning("%s=%s does not answer; using a server of this run's own", API_URL, without_secrets(given, given))
    home = (state / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "start.lock"):  # one at a time makes the database
        process, url = _start(home, home / "server.log")
    try:
        yield url
    finally:
        _stop(process)


def _start(home: Path, log_file: Path) -> tuple[subprocess.Popen[bytes], str]:
    end = time.monotonic() + START
    while True:
        process, url = _begin(home, log_file)
        try:
            while process.poll() is None and time.monotonic() < end:
                if answers(url, 1) and process.poll() is None:
                    return process, url
                time.sleep(0.1)
        except BaseException:
            _stop(process)
            raise
        # Between finding a free port and listening on it another process may have taken it.
        if process.poll() is None or time.monotonic() > end or not _taken(url):
            _stop(process)
            raise UserError(f"Prefect's server did not start: see {log_file}, or give one by {API_URL}")


def _begin(home: Path, log_file: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API_")}
    env |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log_file.open("ab") as output:
        process = subprocess.Popen(
            tethered(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            process_group=0,  # not reached by the terminal's Ctrl-C: it stops after the run has said how it ended
        )
    return process, f"http://127.0.0.1:{port}/api"


def _taken(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((str(parts.hostname), parts.port or 80)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue

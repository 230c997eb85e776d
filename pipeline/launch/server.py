"""A Prefect server for the time of a run, where none answers."""

import contextlib
import http.client
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from pipeline.errors import Failed
from pipeline.launch.stopping import SERVER_SECONDS, end_group
from pipeline.progress import write_line
from pipeline.system.tether import tethered
from pipeline.system.urls import without_secrets

log = logging.getLogger(__name__)

API_URL = "PREFECT_API_URL"
IDLE_SECONDS = 60.0  # after which a server that uses no processor and does not answer is given up
WORK_SECONDS = 3.0  # of processor time within those, which are work: one that only waits uses 1.2
SAY_SECONDS = 10.0  # after which a person is told what is waited for
LAST_LINES = 3  # of its log, of one that ended


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

    However long it takes to start, it is waited for while it works. Raises Failed, with the end of its log, where it
    ends, and where it stands still.
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
        end_group(process, SERVER_SECONDS)


def _start(home: Path, log_file: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers, and its URL. It may take any time as long as it works."""
    said = False
    began = time.monotonic()
    while True:
        before = log_file.stat().st_size if log_file.exists() else 0
        process, url = _begin(home, log_file)
        try:
            for idle in _seconds_of_idleness(process):
                if answers(url, 1) and process.poll() is None:
                    return process, url
                if idle > IDLE_SECONDS:
                    raise Failed(
                        f"Prefect's server has done nothing for {idle:.0f} s and does not answer; {_way_out(log_file)}"
                    )
                if not said and time.monotonic() - began > SAY_SECONDS:
                    said = True
                    write_line(f"waiting for Prefect's server to start; its log: {log_file}")
                time.sleep(0.1)
        except BaseException:
            end_group(process, SERVER_SECONDS)
            raise
        # Between finding a free port and listening on it another process may have taken it.
        if not _taken(url):
            with log_file.open("rb") as lines:
                lines.seek(before)
                last = lines.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
            raise Failed(
                f"Prefect's server ended with exit code {process.returncode}: {' / '.join(last)}; {_way_out(log_file)}"
            )


def _way_out(log_file: Path) -> str:
    return f"see {log_file}, or give a server by {API_URL}"


def _seconds_of_idleness(process: subprocess.Popen[bytes]) -> Iterator[float]:
    """As long as a process lives: for how long it and its children have used no processor."""
    used, since = 0.0, time.monotonic()
    while process.poll() is None:
        now = _processor_seconds(process.pid)
        if now > used + WORK_SECONDS:
            used, since = now, time.monotonic()
        yield time.monotonic() - since


def _processor_seconds(pid: int) -> float:
    used = 0.0
    with contextlib.suppress(psutil.Error):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used += sum(process.cpu_times()[:4])  # with those of children that are over
    return used


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

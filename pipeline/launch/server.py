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

import psutil
from filelock import FileLock

from pipeline.errors import Failed
from pipeline.progress import write_line
from pipeline.system.processes import SERVER_SECONDS, end_group, start
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
        with contextlib.closing(make(parts.netloc.rpartition("@")[2], timeout=timeout)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


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
    log_file = home / "server.log"
    with contextlib.ExitStack() as ending:
        with FileLock(home / "start.lock"):  # one at a time makes the database
            log_file.touch()
            before = log_file.stat().st_size
            process, url = _begin(home, log_file)
            ending.callback(end_group, process, (signal.SIGTERM, SERVER_SECONDS))
            try:
                _wait(process, url, log_file)
            except Failed as error:
                last = log_file.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-LAST_LINES:]
                told = f": {' / '.join(last)}" if last else ""
                raise Failed(f"{error}{told}; see {log_file}, or give a server by {API_URL}") from None
        yield url


def _wait(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    """Until a server answers. Raises Failed where it has ended or does nothing."""
    began = idle_since = time.monotonic()
    used, said = 0.0, False
    while not (answers(url, 1) and process.poll() is None):  # not another's server, which may have taken the port
        if process.poll() is not None:
            raise Failed(f"Prefect's server ended with exit code {process.returncode}")
        now = time.monotonic()
        if (works := _processor_seconds(process.pid)) > used + WORK_SECONDS:
            used, idle_since = works, now
        if now > idle_since + IDLE_SECONDS:
            raise Failed(f"Prefect's server has done nothing for {now - idle_since:.0f} s and does not answer")
        if not said and now > began + SAY_SECONDS:
            said = True
            write_line(f"waiting for Prefect's server to start; its log: {log_file}")
        time.sleep(0.1)


def _processor_seconds(pid: int) -> float:
    """What a process and its children have used, those that are over as well."""
    with contextlib.suppress(psutil.Error):
        server = psutil.Process(pid)
        return sum(sum(process.cpu_times()[:4]) for process in (server, *server.children(recursive=True)))
    return 0.0


def _begin(home: Path, log_file: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API_")}
    env["PREFECT_HOME"] = str(home)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log_file.open("ab") as output:
        process = start(command, stdout=output, stderr=output, env=env)
    return process, f"http://127.0.0.1:{port}/api"

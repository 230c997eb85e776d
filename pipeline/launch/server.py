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

import httpx
from filelock import FileLock

from pipeline.errors import Failed, UserError
from pipeline.progress import write_line
from pipeline.system.processes import SERVER_SECONDS, cpu_seconds, end_group, runs, start
from pipeline.system.urls import without_secrets

log = logging.getLogger(__name__)

API_URL = "PREFECT_API_URL"
SAY_SECONDS = 10.0  # after which a person is told what is waited for
START_CPU_SECONDS = 120.0  # that a server's start may use, however long it takes: it needs 11 to 19, slow machines more
STILL_SECONDS = 60.0  # without any, after which a server that lives does not work


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

    Raises Failed, with the name of its log, where it ends or does not answer; UserError for proxies of no use.
    """
    given = os.environ.get(API_URL)
    _no_proxy()
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
            process, url = _begin(home, log_file)
            ending.callback(end_group, process, (signal.SIGTERM, SERVER_SECONDS))
            _wait(process, url, log_file)
        yield url


def _no_proxy() -> None:
    """Have this process and all that it starts ask servers on this machine themselves, whatever proxy others need."""
    names = (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",")
    names = list(dict.fromkeys([*filter(None, names), "127.0.0.1", "localhost"]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(names)
    try:
        httpx.Client().close()  # makes a way by every proxy that is named, also those it will not take
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise UserError(
            f"ALL_PROXY, HTTP_PROXY, HTTPS_PROXY or NO_PROXY: Prefect's client cannot use what is set: {error}; "
            "unset it for hvg, or install what it names"
        ) from error


def _wait(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    """Until a server answers, as long as it lives and works. Raises Failed where it does not."""
    began = moved = time.monotonic()
    used, said = 0.0, False
    while not (answers(url, 1) and runs(process)):  # not another's server, which may have taken the port
        now, before, used = time.monotonic(), used, cpu_seconds(process)
        moved = now if used > before else moved
        if not runs(process) or used > START_CPU_SECONDS or now - moved > STILL_SECONDS:
            how = f"does not answer after {now - began:.0f} s" if runs(process) else "has ended"
            raise Failed(f"Prefect's server {how}; its log, {log_file}, says more, or give a server by {API_URL}")
        if now - began > SAY_SECONDS and not said:
            said = True
            write_line(f"waiting for Prefect's server to start; its log: {log_file}")
        time.sleep(0.2)


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

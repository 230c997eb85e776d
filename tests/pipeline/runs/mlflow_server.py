"""A real `mlflow server` on loopback, and a door to it that tests open and shut."""

import contextlib
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def door(port: int, server: int) -> Iterator[None]:
    """A port leads to a server's for the time of the block. Before and after it, connections are refused."""
    shut = threading.Event()

    class Visitor(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", server)) as behind:
                other = {self.request: behind, behind: self.request}
                while not shut.is_set():
                    for side in select.select(list(other), [], [], 0.05)[0]:
                        data = side.recv(65536)
                        if not data:
                            return
                        other[side].sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Visitor) as doors:
        threading.Thread(target=doors.serve_forever, args=(0.05,)).start()
        try:
            yield
        finally:
            shut.set()
            doors.shutdown()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """The port of a server whose database and artifacts lie in `folder`, for the time of the block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - http
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

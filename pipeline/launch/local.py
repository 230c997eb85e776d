"""The launcher of this machine: one job in its own process group, of which nothing is left behind."""

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.launch.job import ENDED, DeadlineExceeded, Job, raise_failure
from pipeline.launch.output import Output
from pipeline.launch.stopping import JOB_SECONDS, kill_members, members, undisturbed
from pipeline.progress import COLUMNS, write_line
from pipeline.system.stage import JOB, MEETING
from pipeline.system.tether import tethered


@dataclass(frozen=True)
class LocalLauncher:
    """Runs jobs on this machine; what they print stays in `log`."""

    log: Path
    grace: float = JOB_SECONDS  # between TERM and KILL: time for a checkpoint

    def preview(self, job: Job) -> str:
        """What `run` would start, as a line of shell."""
        added = [f"{name}={shlex.quote(value)}" for name, value in sorted(job.environment().items())]
        return " ".join([*added, shlex.join(job.command())]) + "\n"

    def run(self, job: Job, on_line: Callable[[str], None], deadline: float | None = None) -> None:
        """Run a job to its end, showing what it prints and giving every line to `on_line`.

        `deadline` is in seconds. Whatever ends this call, none of the job's processes lives after it: on an exception
        of any kind (Ctrl-C, a cancellation, SystemExit of a TERM handler) they get TERM and, after the grace period,
        KILL. If this process itself is killed, the kernel sends the job TERM.

        Raises UserError with the stage's message, DeadlineExceeded, or JobFailed for any other end.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        here: Any = {"ignore_cleanup_errors": True}
        with (  # what torchrun leaves in a folder; and, as locks must work in it, one on this machine's disk
            tempfile.TemporaryDirectory(prefix="torchrun-", dir=self.log.parent, **here) as scratch,
            tempfile.TemporaryDirectory(prefix="hvg-", **here) as meeting,
        ):
            ended = Path(scratch, "job")
            env = {**job.environment(), "PET_LOG_DIR": scratch, ENDED: str(ended), **_off_the_network(Path(meeting))}
            if sys.stdout.isatty():
                env[COLUMNS] = str(shutil.get_terminal_size().columns)
            if code := self._run(job.command(), env, on_line, deadline):
                raise_failure(ended, code, f"ended with exit code {code}")

    def _run(
        self, command: list[str], env: dict[str, str], on_line: Callable[[str], None], deadline: float | None
    ) -> int:
        name = uuid.uuid4().hex
        output = Output(on_line, self.log)
        process = subprocess.Popen(
            tethered(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env, JOB: name},
            process_group=0,
        )
        try:
            self._stream(process, output, None if deadline is None else time.monotonic() + deadline)
            return process.wait()
        except TimeoutError:
            self._stop(process, name, output)
            minutes = f"{(deadline or 0) / 60:g}"
            raise DeadlineExceeded(f"not ready after {minutes} minutes, the deadline; stopped") from None
        except BaseException:
            self._stop(process, name, output)
            raise
        finally:
            kill_members(name)  # also what a stage that ended well forgot
            process.wait()
            output.close()
            assert process.stdout is not None
            process.stdout.close()

    def _stream(self, process: subprocess.Popen[bytes], output: Output, end: float | None) -> None:
        """Pass output on until the process has ended. Raises TimeoutError at `end`."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        while True:
            left = 1.0 if end is None else min(1.0, end - time.monotonic())
            if left <= 0:
                raise TimeoutError
            if select.select([pipe], [], [], left)[0]:
                data = os.read(pipe, 1 << 16)
                if not data:
                    return
                output.feed(data)
            elif process.poll() is not None:  # ended; a forgotten child may hold the pipe open
                return

    @undisturbed()
    def _stop(self, process: subprocess.Popen[bytes], name: str, output: Output) -> None:
        """TERM to the group, which torchrun hands on to its workers (they have sessions of their own); then KILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + self.grace
        try:
            while time.monotonic() < end and (process.poll() is None or members(name)):
                with contextlib.suppress(TimeoutError):  # keep reading: a full pipe would block a checkpoint's message
                    self._stream(process, output, time.monotonic() + 0.2)
                if process.poll() is not None:
                    time.sleep(0.05)
        finally:  # a second Ctrl-C comes here at once
            if members(name):
                kill_members(name)
                with contextlib.suppress(OSError):  # the terminal may be gone
                    write_line("the job did not end by itself and was killed: what it had not saved is lost")


def _off_the_network(meeting: Path) -> dict[str, str]:
    """What makes torchrun and the workers find each other by files, and gloo listen on the loopback interface alone."""
    found = {"PET_RDZV_ENDPOINT": str(meeting / "torchrun"), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    found[MEETING] = str(meeting / "workers")
    if "GLOO_SOCKET_IFNAME" not in os.environ and "lo" in {name for _, name in socket.if_nameindex()}:
        found["GLOO_SOCKET_IFNAME"] = "lo"
    return found

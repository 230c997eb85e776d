"""The launcher of this machine: one job in its own process group, of which nothing is left behind."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.launch.job import ENDED, Job, raise_failure
from pipeline.launch.output import Output
from pipeline.progress import COLUMNS, write_line
from pipeline.system.environment import JOB, MEETING
from pipeline.system.machine import cores
from pipeline.system.processes import JOB_SECONDS, end_group, kill, members, runs, start

LOOK_SECONDS = 0.1  # between looks for new lines, and at a job that may have ended


@dataclass(frozen=True)
class LocalLauncher:
    """Runs jobs on this machine; what they print stays in `log`."""

    log: Path
    grace: float = JOB_SECONDS  # between TERM and KILL: time for a checkpoint

    def preview(self, job: Job) -> str:
        """What `run` would start, as a line of shell."""
        return shlex.join([*(f"{name}={value}" for name, value in _environment(job).items()), *_command(job)]) + "\n"

    def run(self, job: Job, on_line: Callable[[str], None]) -> None:
        """Run a job to its end, showing what it prints and giving every line to `on_line`.

        Whatever ends this call, none of the job's processes lives after it: on an exception of any kind (Ctrl-C, a
        cancellation, SystemExit of a TERM handler) they get TERM and, after the grace period, KILL. If this process
        itself is killed, the kernel sends the job TERM.

        Raises UserError with the stage's message, or JobFailed for any other end.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # On this machine's disk: locks must work in it. torchrun and the workers find each other by files in it, and
        # gloo listens on the loopback interface alone: no port is open to the network.
        with tempfile.TemporaryDirectory(prefix="hvg-", ignore_cleanup_errors=True) as scratch:
            env = {**_environment(job), "PET_LOG_DIR": scratch, ENDED: f"{scratch}/job", MEETING: f"{scratch}/workers"}
            env |= {"PET_RDZV_ENDPOINT": f"{scratch}/torchrun", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
            if "GLOO_SOCKET_IFNAME" not in os.environ and "lo" in {name for _, name in socket.if_nameindex()}:
                env["GLOO_SOCKET_IFNAME"] = "lo"
            if sys.stdout.isatty():
                env[COLUMNS] = str(shutil.get_terminal_size().columns)
            if code := self._run(_command(job), env, Output(self.log, on_line)):
                raise_failure(Path(scratch, "job"), f"ended with exit code {code}")

    def _run(self, command: list[str], env: dict[str, str], output: Output) -> int:
        name = uuid.uuid4().hex
        with self.log.open("ab") as log:
            process = start(command, stdout=log, stderr=log, env={**os.environ, **env, JOB: name})
        try:
            while runs(process):
                with contextlib.suppress(OSError):  # someone has tidied up the logs: the job goes on
                    output.show()
                time.sleep(LOOK_SECONDS)
            return process.wait()
        except BaseException:

            def left() -> set[psutil.Process]:
                with contextlib.suppress(OSError):
                    output.show()  # at once what a stop costs, and what it waits for
                return members(name)

            # TERM to torchrun, which hands it on to its workers: they have sessions of their own.
            if not end_group(process, (signal.SIGTERM, self.grace), left=left):
                with contextlib.suppress(OSError):  # the terminal may be gone
                    write_line("the job did not end by itself and was killed: what it had not saved is lost")
            raise
        finally:
            kill(lambda: members(name))  # also what a stage that ended well forgot
            output.close()


def _command(job: Job) -> list[str]:
    """torchrun's command line, in the environment of this interpreter.

    torchrun meets itself in a file: with --standalone it would open a port to the network for that, and unpickle what
    comes from there.
    """
    options = ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file"]
    return [sys.executable, "-m", "pipeline.launch.torchrun", *options, *job.program()]


def _environment(job: Job) -> dict[str, str]:
    """The cores are shared between the workers, unless the user has: left to itself torchrun gives each one thread."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // job.workers)))
    return {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}

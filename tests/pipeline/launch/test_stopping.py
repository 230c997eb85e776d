"""`hvg repro` is told to stop: in front of a terminal and in a script's background, by Ctrl-C and TERM, whenever."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.launch.server import API_URL, prefect_server
from pipeline.system.processes import (
    GRACE_SECONDS,
    HURRIED_SECONDS,
    JOB_SECONDS,
    LEAVE_SECONDS,
    SERVER_SECONDS,
    undisturbed,
)
from tests.stages.fake_project import make_project

BIN = Path(sys.executable).parent
MARK = "MARK_OF_THIS_TEST"  # in the environment of all that a run starts
DVC_YAML = """
stages:
  train-level:
    foreach: ${levels}
    do:
      cmd: hvg run train
      deps: [data/pyramid]
      params:
        - levels.${key}.training
      outs:
        - artifacts/level-${key}
"""


def project(root: Path) -> Path:
    """Two tiny levels on a pyramid that is there, which are trained for hours."""
    paths = make_project(root, classes=("a", "b"))
    raw = YAML(typ="safe").load(paths.params)
    for level in raw["levels"].values():
        level["generator"]["channels"] = level["discriminators"]["channels"] = 2
        level["training"] |= {"batch": 4, "iterations": 10**6, "checkpoint_every": 10**6, "samples_every": None}
    with paths.params.open("w") as file:
        YAML().dump(raw, file)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    return root


@dataclass(frozen=True, kw_only=True)
class End:
    code: int
    seconds: float  # from the signal until nothing was left
    left: list[str]  # what lived on after the grace
    said: str


def stop(root: Path, way: str, number: signal.Signals, awaited: str, seconds: float, url: str | None = None) -> End:
    """Start `hvg repro` and, so many seconds after a line of its output, stop it.

    way: front, with a terminal that Ctrl-C is typed on; or script, in whose background Ctrl-C is ignored.
    """
    mark = uuid.uuid4().hex
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    env |= {"OMP_NUM_THREADS": "1"}  # threads that wait for each other make an iteration of a busy machine endless
    env |= {MARK: mark, "PATH": f"{BIN}:{os.environ['PATH']}", **({API_URL: url} if url else {})}
    output = root / "said"
    pid_file = root / "pid"
    pid_file.unlink(missing_ok=True)
    terminal, inside = os.openpty()
    with output.open("wb") as said:
        hvg = "echo $$ >pid; exec hvg repro --keep-going"
        if way == "front":
            command = ["setsid", "--ctty", "sh", "-c", f"{hvg}"]
            streams = {"stdin": inside, "stdout": said, "stderr": said}
        else:
            command = ["sh", "-c", f"sh -c '{hvg}' & wait $!"]
            streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
        started = subprocess.Popen(command, cwd=root, env=env, start_new_session=way != "front", **streams)
    try:
        while not (pid_file.is_file() and pid_file.read_text().strip() and awaited in output.read_text()):
            assert started.poll() is None, output.read_text()
            time.sleep(0.01)
        time.sleep(seconds)
        if way == "front" and number == signal.SIGINT:
            os.write(terminal, b"\x03")
        else:
            for _ in range(2 if number == signal.SIGTERM else 1):  # as make, timeout and shells do
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid_file.read_text()), number)
                time.sleep(0.05)
        told = time.monotonic()
        while (left := marked(mark)) and time.monotonic() < told + GRACE_SECONDS:
            time.sleep(0.05)
        taken = time.monotonic() - told
        return End(
            code=started.wait(10) if not left else -1,
            seconds=taken,
            left=[" ".join(one.cmdline()) for one in left],
            said=output.read_text(),
        )
    finally:
        for one in marked(mark):
            one.kill()
        started.wait(10)
        os.close(terminal)
        os.close(inside)


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.environ().get(MARK) == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def check(root: Path, end: End, number: signal.Signals) -> bool:
    """Whether training ran, after what must hold however a run was stopped."""
    assert end.left == [], end.said
    assert end.code == 128 + number, end.said
    ran = [line for line in end.said.splitlines() if re.search("training from the start|going on from iteration", line)]
    assert len(ran) <= 1, end.said  # neither tried again nor gone on with level 2
    assert "level 2" not in end.said
    if ran:
        (saved,) = re.findall(r"stopped: level 1: iteration (\d+) is saved, the same command goes on from it", end.said)
        assert list(root.glob(f".hvg/work/train-level-1-*/checkpoint-{int(saved):08d}.pt")), end.said
        assert "lost" not in end.said, end.said
    return bool(ran)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_changes_nothing_while_something_is_stopped(number):
    def heard(*_):
        raise SystemExit

    before = signal.signal(number, heard)
    try:
        with undisturbed():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is heard
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_what_each_may_take_fits_the_grace():
    assert JOB_SECONDS + LEAVE_SECONDS + HURRIED_SECONDS + SERVER_SECONDS <= GRACE_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_ends_within_the_grace_with_a_checkpoint_however_it_was_started(tmp_path):
    root, moments = project(tmp_path / "p"), random.Random(0)  # noqa: S311
    with prefect_server(tmp_path) as url:
        for way in ("front", "script"):
            for number in (signal.SIGINT, signal.SIGTERM):
                training = stop(root, way, number, "level 1: ", moments.uniform(0, 2), url)
                assert check(root, training, number)
        for number in (signal.SIGINT, signal.SIGTERM):  # anywhere, also before there is a job
            check(root, stop(root, "script", number, "Running stage", moments.uniform(0, 8), url), number)

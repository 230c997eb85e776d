"""Stages that generate, measure and show, by `hvg run`: stopped and killed anywhere they leave nothing, and the same
command ends with the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from pipeline.launch.server import API_URL, prefect_server
from pipeline.system.processes import GRACE_SECONDS
from tests.pipeline.launch.test_stopping import MARK, marked
from tests.stages.by_stages import STEPS, Step, before

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
HVG = Path(sys.executable).parent / "hvg"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with prefect_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def start(step: Step, root: Path, url: str, mark: str = "") -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "HVG_"))}
    env = {**kept, API_URL: url, MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (root / "said").open("w") as said:
        command = [HVG, "run", step.stage, *step.args]
        return subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True
        )


# Training has tests of its own, decode kills of its own.
@pytest.mark.parametrize("step", [STEPS[2], *STEPS[5:]], ids=str)
def test_it_ends_in_time_and_the_same_command_goes_on(reproduced, server, tmp_path, step):
    root, moments = before(reproduced, step, tmp_path / "stopped").root, random.Random(str(step))  # noqa: S311
    ends: list[bool] = []  # whether it had ended when the signal came
    for number in SIGNALS:
        mark = uuid.uuid4().hex
        with start(step, root, server, mark) as process:
            while not any("torchrun" in part for one in marked(mark) for part in one.cmdline()):
                assert process.poll() is None, (root / "said").read_text()
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 5))
            ends.append(process.poll() is not None)
            process.send_signal(number)
            told = time.monotonic()
            while (left := marked(mark)) and time.monotonic() < told + GRACE_SECONDS:
                time.sleep(0.05)
            said = (root / "said").read_text()
            assert left == [], said
            code = process.wait(10)
        assert ends[-1] or code == (-number if number == signal.SIGKILL else 128 + number), said
        assert "Traceback" not in said
    with start(step, root, server) as process:
        assert process.wait() == 0, (root / "said").read_text()
    assert step.differing(root, reproduced / "end") == []
    assert not all(ends)

"""How the `dvc repro` of a stage is stopped."""

import signal
import subprocess
import sys

import psutil
import pytest

from pipeline.launch import repro
from pipeline.launch.local import GRACE
from pipeline.launch.remote import REMOVAL
from pipeline.launch.repro import Repros
from tests.pipeline.launch.test_dag import project

# Ends by Ctrl-C alone, and says so.
PATIENT = """if True:
    import time
    from pathlib import Path
    try:
        print("begun", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        Path("interrupted").touch()
"""


class Cancelled(BaseException):
    """As Prefect raises at TERM."""


@pytest.mark.timeout(60)
def test_an_interruption_stops_the_stage_as_ctrl_c_does(tmp_path, monkeypatch):
    folder = project(tmp_path / "p", {"long": {"cmd": "python patient.py", "deps": ["patient.py"]}})
    (folder / "patient.py").write_text(PATIENT)
    monkeypatch.chdir(folder)
    before, started = psutil.Process().children(recursive=True), []

    def on_line(text):
        if text == "begun":
            started.extend(child for child in psutil.Process().children(recursive=True) if child not in before)
            raise Cancelled

    running = Repros(1)
    with pytest.raises(Cancelled):
        running.run("long", [], on_line)
    assert len(started) >= 2  # dvc and its command
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
    assert (folder / "interrupted").exists()
    assert running._processes == set()  # `stop` would signal a number that another process may bear by then


class Waited(subprocess.Popen):
    """Notes how long it is waited for, and is interrupted by Ctrl-C the first time."""

    seconds: tuple[float, ...] = ()

    def wait(self, timeout=None):
        assert timeout is not None
        self.seconds += (timeout,)
        if len(self.seconds) == 1:
            raise KeyboardInterrupt
        return super().wait(timeout)


@pytest.mark.timeout(60)
def test_a_stage_has_the_time_that_a_cluster_needs_and_a_second_ctrl_c_takes_it():
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    process = Waited([sys.executable, "-c", deaf], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    with process.stdout as ready:
        ready.readline()
        repro._stop(process)
    assert process.returncode == -signal.SIGTERM
    assert process.seconds[0] > GRACE + 15 + REMOVAL  # TERM, then the removal of a job that does not end
    assert process.seconds[1] <= 5

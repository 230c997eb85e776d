"""How the `dvc repro` of a stage is stopped."""

import subprocess
import sys

import psutil
import pytest

from pipeline.launch import repro
from pipeline.launch.job import JobFailed
from pipeline.launch.remote import REMOVAL
from pipeline.launch.repro import run_dvc_stage, stages_of_dvc
from pipeline.launch.stopping import GRACE_SECONDS, end_dvc
from tests.pipeline.launch.dvc_project import project

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

    with pytest.raises(Cancelled):
        run_dvc_stage("long", [], on_line)
    assert len(started) >= 2  # dvc and its command
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
    assert (folder / "interrupted").exists()


@pytest.mark.parametrize("name", ["a; touch hurt", "--help"])
def test_no_name_reaches_a_shell_or_becomes_an_option(tmp_path, monkeypatch, name):
    monkeypatch.chdir(project(tmp_path / "p", {"one": {"cmd": "touch one"}, "two": {"cmd": "touch two"}}))
    lines = []
    with pytest.raises(JobFailed):
        run_dvc_stage(name, [], lines.append)
    assert lines[0].startswith("ERROR: ") and name in lines[0]
    assert not list(tmp_path.rglob("hurt"))
    assert sorted(stages_of_dvc()) == ["one", "two"]


# Begins with its command, which ends by TERM alone, and goes on with another when that one is gone, as `dvc repro -k`.
GOES_ON = """if True:
    import signal, subprocess, sys
    from pathlib import Path
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    subprocess.run([sys.executable, "-c", deaf])
    Path("next").touch()
"""


@pytest.mark.timeout(60)
def test_no_stage_begins_after_the_one_that_is_stopped_and_what_is_deaf_ends_in_time(tmp_path):
    dvc = subprocess.Popen(
        [sys.executable, "-c", GOES_ON], cwd=tmp_path, stdout=subprocess.PIPE, process_group=0, text=True
    )
    assert dvc.stdout is not None
    with dvc.stdout as ready:
        ready.readline()
        (command,) = psutil.Process(dvc.pid).children()
        end_dvc(dvc, 0.5, goes_on=True)
    assert not command.is_running()
    assert not (tmp_path / "next").exists()


def test_a_stage_has_the_time_that_a_cluster_needs(monkeypatch):
    monkeypatch.delenv("HVG_CLUSTER", raising=False)
    assert repro._patience() < GRACE_SECONDS
    monkeypatch.setenv("HVG_CLUSTER", "gpu")
    assert repro._patience() > GRACE_SECONDS + 15 + REMOVAL  # TERM, then the removal of a job that does not end

"""How a `dvc repro` is stopped."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from pipeline.commands.repro import repro as repro_command
from pipeline.errors import UserError
from pipeline.launch import repro
from pipeline.launch.job import JobFailed
from pipeline.launch.remote import CANCEL_SECONDS, REMOVAL_SECONDS
from pipeline.launch.repro import end_dvc
from pipeline.system.processes import GRACE_SECONDS
from tests.pipeline.launch.dvc_project import environment, project

PROJECT = Path(__file__).parents[3]

# Ends by Ctrl-C alone, and says so.
PATIENT = """if True:
    import time
    from pathlib import Path
    try:
        Path("begun").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        Path("interrupted").touch()
"""


RUN = """if True:
    import contextlib, signal, sys
    from pathlib import Path
    from pipeline.launch import repro
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    repro.prefect_server = lambda _: contextlib.nullcontext("http://127.0.0.1:9/api")
    repro.run_dvc_repro(Path(".hvg"), ["--single-item", "--", "long"], "--wait-for-lock")
"""


@pytest.mark.timeout(60)
def test_an_interruption_stops_the_stage_as_ctrl_c_does(tmp_path):
    folder = project(tmp_path / "p", {"long": {"cmd": "python patient.py", "deps": ["patient.py"]}})
    (folder / "patient.py").write_text(PATIENT)
    run = subprocess.Popen([sys.executable, "-c", RUN], cwd=folder, env=environment())
    while not (folder / "begun").exists():
        assert run.poll() is None
        time.sleep(0.05)
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) >= 2  # dvc and its command
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 143
    assert psutil.wait_procs(started, timeout=5)[1] == []
    assert (folder / "interrupted").exists()


def test_no_folder_of_others_comes_to_dvc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(repro, "run_dvc_repro", lambda *_: 0)
    shutil.copy(PROJECT / "recipes" / "shapes.yaml", "params.yaml")
    (tmp_path / "data" / "shapes").mkdir(parents=True)
    (tmp_path / "data" / "shapes" / "a.mp4").touch()
    with pytest.raises(UserError, match=r"shapes\.shapes: make-shapes would remove data/shapes/a\.mp4"):
        CliRunner().invoke(repro_command, ["report"], catch_exceptions=False)


@pytest.mark.parametrize("name", ["a; touch hurt", "--help"])
def test_no_name_reaches_a_shell_or_becomes_an_option(tmp_path, monkeypatch, capfd, name):
    from pipeline.launch.deployment import reproduce

    monkeypatch.chdir(project(tmp_path / "p", {"one": {"cmd": "touch one"}, "two": {"cmd": "touch two"}}))
    monkeypatch.setattr(repro, "prefect_server", lambda _: contextlib.nullcontext("http://127.0.0.1:9/api"))
    with pytest.raises(JobFailed, match="dvc ended with exit code"):
        reproduce.fn(name)
    said = capfd.readouterr().err
    assert said.startswith("ERROR: ") and name in said
    assert not list(tmp_path.rglob("hurt"))


@pytest.mark.timeout(60)
def test_a_folder_without_git_is_enough(tmp_path, monkeypatch, capfd):
    folder = project(tmp_path / "p", {"one": {"cmd": "touch one", "outs": ["one"]}})
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".dvc" / "config.local").write_text("[core]\n    checksum_jobs = 1\n")  # somebody's
    monkeypatch.chdir(folder)
    monkeypatch.setattr(repro, "prefect_server", lambda _: contextlib.nullcontext("http://127.0.0.1:9/api"))
    assert repro.run_dvc_repro(Path(".hvg"), []) == 0
    assert (folder / "one").exists()
    assert capfd.readouterr().err.startswith("no git repository: .dvc/config.local has core.no_scm now")
    assert "checksum_jobs = 1" in (folder / ".dvc" / "config.local").read_text()
    assert repro.run_dvc_repro(Path(".hvg"), []) == 0
    assert "no git" not in capfd.readouterr().err


def test_without_git_a_configuration_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / ".dvc" / "config.local").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^\.dvc/config\.local: no git repository"):
        repro.run_dvc_repro(Path(".hvg"), [])


# Between two commands, and busy for a moment.
BETWEEN = """if True:
    import signal, time
    from pathlib import Path
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(0.5)
        Path("cleared").touch()
"""


@pytest.mark.timeout(60)
def test_a_dvc_between_two_commands_ends_by_itself(tmp_path):
    command = [sys.executable, "-c", BETWEEN]
    dvc = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, process_group=0, text=True)
    assert dvc.stdout is not None
    with dvc.stdout as ready:
        ready.readline()
        end_dvc(dvc)
    assert dvc.returncode == 0
    assert (tmp_path / "cleared").exists()


@pytest.mark.timeout(60)
def test_nothing_is_left_outside_the_group_of_dvc(tmp_path):
    begin = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    command = [sys.executable, "-c", begin + BETWEEN]
    dvc = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, process_group=0, text=True)
    assert dvc.stdout is not None
    with dvc.stdout as ready:
        ready.readline()
        (outside,) = psutil.Process(dvc.pid).children()
        end_dvc(dvc)
    assert psutil.wait_procs([outside], timeout=5)[1] == []


def test_a_stage_has_the_time_that_a_cluster_needs(monkeypatch):
    steps = []
    monkeypatch.setattr(repro, "end_group", lambda _dvc, first, *_more, **_left: steps.append(first))
    dvc = subprocess.Popen([sys.executable, "-c", ""])
    dvc.wait()
    for cluster in ("local", "gpu"):
        monkeypatch.setenv("HVG_CLUSTER", cluster)
        end_dvc(dvc)
    (here, here_seconds), (there, there_seconds) = steps
    assert here == there == signal.SIGINT and here_seconds < GRACE_SECONDS
    assert there_seconds > CANCEL_SECONDS + REMOVAL_SECONDS  # TERM, then the removal of a job that does not end

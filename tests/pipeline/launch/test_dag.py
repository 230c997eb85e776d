"""`hvg dag` on a small made-up DVC project, against a real Prefect server."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.launch.dag import Graph, Step, plan
from pipeline.launch.job import JobFailed
from pipeline.launch.repro import Repros
from pipeline.launch.server import prefect_server

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent

# Writes its name into its out. With MEET in the environment it ends only once the others named there have begun.
STAGE = """if True:
    import os, sys, time
    from pathlib import Path
    name, *others = sys.argv[1:]
    Path("begun").mkdir(exist_ok=True)
    Path("begun", name).touch()
    while os.environ.get("MEET") and not all(Path("begun", other).exists() for other in others):
        time.sleep(0.02)
    if name == "broken":
        sys.exit("broken, as it should be")
    Path(name).write_text(name)
"""
STAGES = {
    "left": {"cmd": "python stage.py left right", "deps": ["stage.py"], "outs": ["left"]},
    "right": {"cmd": "python stage.py right left", "deps": ["stage.py"], "outs": ["right"]},
    "both": {"cmd": "python stage.py both", "deps": ["left", "right"], "outs": ["both"]},
    "broken": {"cmd": "python stage.py broken", "deps": ["stage.py"], "outs": ["broken"]},
    "after": {"cmd": "python stage.py after", "deps": ["broken"], "outs": ["after"]},
}
RUN = "import sys; from pathlib import Path; from pipeline.launch.dag import run_dag; "
RUN += "sys.exit(run_dag(Path('.hvg'), sys.argv[2:], int(sys.argv[1])))"


def project(folder: Path, stages=STAGES) -> Path:
    folder.mkdir()
    (folder / "stage.py").write_text(STAGE)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    return folder


def environment(**more):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return clean | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | more


def test_the_plan_is_dvc_s(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path / "p"))
    graph = plan(["both", "--force", "--no-commit"])
    assert graph is not None
    assert set(graph.steps[:2]) == {Step(stage="left", after=()), Step(stage="right", after=())}
    assert graph.steps[2:] == (Step(stage="both", after=("left", "right")),)
    assert graph.options == ("--force", "--no-commit")
    assert plan(["--downstream", "broken"]) == Graph(
        steps=(Step(stage="broken", after=()), Step(stage="after", after=("broken",))), options=(), ignore_errors=False
    )
    everything = plan([])
    assert everything is not None and {step.stage for step in everything.steps} == set(STAGES)
    assert plan(["--glob", "b*", "--ignore-errors"]) is not None
    assert [plan([option, "both"]) for option in ("-s", "-i", "--dry", "--force-downstream")] == [None] * 4
    for mistake, said in (("--nonsense", "--nonsense: no option of `dvc repro`"), ("nobody", "'nobody'")):
        with pytest.raises(UserError, match=said):
            plan([mistake])


@pytest.mark.parametrize("name", ["a; touch hurt", "--help"])
def test_no_name_reaches_a_shell_or_becomes_an_option(tmp_path, monkeypatch, name):
    monkeypatch.chdir(project(tmp_path / "p"))
    lines = []
    with pytest.raises(JobFailed):
        Repros(1).run(name, [], lines.append)
    assert lines[0].startswith("ERROR: ") and name in lines[0]
    assert not list(tmp_path.rglob("hurt"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_flow_makes_what_dvc_repro_makes_side_by_side(tmp_path):
    ways = [project(tmp_path / name) for name in ("repro", "dag")]
    with prefect_server(tmp_path / "state") as url:
        commands = [[sys.executable, "-m", "dvc", "repro", "--keep-going"], [sys.executable, "-c", RUN, "4"]]
        more = [{}, {"MEET": "1", "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "home")}]
        done = [
            subprocess.run(command, cwd=folder, env=environment(**env), capture_output=True, text=True, check=False)
            for command, folder, env in zip(commands, ways, more, strict=True)
        ]
        states = asyncio.run(task_states(url))
    assert [one.returncode for one in done] == [255, 255], done[1].stderr
    assert "left | " in done[1].stdout and "failed: broken; not run: after" in done[1].stdout
    locks = [YAML(typ="safe").load(folder / "dvc.lock") for folder in ways]
    assert locks[0] == locks[1]
    assert set(locks[0]["stages"]) == {"left", "right", "both"}
    assert [(folder / "both").read_text() for folder in ways] == ["both", "both"]
    assert states == {"left": "Completed", "right": "Completed", "both": "Completed", "broken": "Failed"} | {
        "after": "NotReady"
    }


async def task_states(url):
    from prefect.client.orchestration import PrefectClient

    async with PrefectClient(url) as client:
        return {run.name: run.state_name for run in await client.read_task_runs()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_stops_every_stage(tmp_path):
    endless = {
        name: {"cmd": f'python -c \'import time; open("{name}", "w"); time.sleep(600)\'', "outs": [name]}
        for name in ("one", "two")
    }
    folder = project(tmp_path / "p", endless | {"late": {"cmd": "touch late", "deps": ["one"], "outs": ["late"]}})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "2"], cwd=folder, env=environment(), stdout=log, stderr=log, process_group=0
        )
        while not all((folder / name).exists() for name in endless):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        started = psutil.Process(process.pid).children(recursive=True)
        assert sum("sleep(600)" in " ".join(child.cmdline()) for child in started) >= 2
        process.send_signal(signal.SIGINT)
        assert process.wait() != 0
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    assert not (folder / "late").exists()

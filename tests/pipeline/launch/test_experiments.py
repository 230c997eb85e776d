"""`dvc exp run`, queued and several at once, with real servers: what copies of a checkout share, and what not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from pipeline.paths import Paths
from pipeline.runs.store import Store

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# In the place of the report: ends only once as many as EXPECTED are in it at once, and tells where it was.
STAGE = """
import json, os, time
from pathlib import Path
from pipeline.runs import tracking
from pipeline.params import load_params
from pipeline.system.values import fingerprint
from pipeline.paths import Paths, alone

params, paths = load_params(), Paths()
inputs = fingerprint(params.seed)
with tracking.run(params, "train level 1", inputs=inputs) as run:
    run.log({"loss": float(params.seed)})
    work = paths.work("train-level-1", inputs, paths.artifact(1))
    with alone(work):
        meeting = Path(os.environ["MEETING"])
        (meeting / str(params.seed)).touch()
        while len(list(meeting.iterdir())) < int(os.environ["EXPECTED"]):
            time.sleep(0.05)
        told = {"copy": str(Path.cwd()), "work": str(work), "server": os.environ["PREFECT_API_URL"]}
Path("told.json").write_text(json.dumps(told))
"""
DVC_YAML = """
stages:
  report:
    cmd: hvg run report
    params: [seed]
    deps: [stages/report.py]
    outs:
      - told.json:
          cache: false
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout; touch hurt"
    for name, content in {
        ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n",
        ".gitignore": "/.hvg/\n/mlflow.db*\n__pycache__/\n/.dvc/tmp/\n",
        "dvc.yaml": DVC_YAML,
        "params.yaml": (ROOT / "recipes" / "shapes.yaml").read_text(),
        "stages/__init__.py": "",
        "stages/report.py": STAGE,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (tmp_path / "meeting").mkdir()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "a project"]):
        git(folder, *arguments)
    yield folder
    run(folder, "dvc", "queue", "stop", "--kill")
    left = [one for one in psutil.process_iter(["cwd"]) if str(folder) in str(one.info["cwd"])]
    for one in left:
        one.kill()


def run(folder, program, *arguments, expected=1):
    unwanted = ("PREFECT_", "MLFLOW_", "DVC_", "HVG_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    env |= {"PATH": f"{BIN}:{os.environ['PATH']}", "MEETING": str(folder.parent / "meeting"), "EXPECTED": str(expected)}
    env |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = [sys.executable, "-m", program, *arguments]
    with (folder.parent / "said").open("w+") as said:  # no pipe: workers that a command leaves behind would hold it
        subprocess.run(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT, check=False)
        said.seek(0)
        return said.read()


def git(folder, *arguments):
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def experiments(folder):
    """What the stage told in each experiment that is finished."""
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    named = {ref.rpartition("/")[2]: ref for ref in refs if len(ref.split("/")) == 5}  # refs/exps/<12>/<34>/<name>
    return {name: json.loads(git(folder, "show", f"{ref}:told.json")) for name, ref in named.items()}


def test_two_at_once_share_neither_folders_nor_ports(checkout):
    for seed, name in ((1, "one"), (2, "two")):
        run(checkout, "dvc", "exp", "run", "--queue", "-n", name, "-S", f"seed={seed}")
    end = time.monotonic() + 300
    # Two workers of DVC's that start in one moment read each other's half-written files, and one ends.
    for workers in (1, 2):
        run(checkout, "dvc", "queue", "start", "-j", str(workers), expected=2)
        while len(list((checkout.parent / "meeting").iterdir())) < workers and time.monotonic() < end:
            time.sleep(0.5)
    while len(where := experiments(checkout)) < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert set(where) == {"one", "two"}, run(checkout, "dvc", "queue", "logs", "one")
    for key in ("copy", "work", "server"):
        assert where["one"][key] != where["two"][key]
    # The copies go, what can be gone on from stays.
    assert [Path(one["copy"]).parent for one in where.values()] == [checkout / ".dvc" / "tmp" / "exps"] * 2
    assert [Path(one["work"]).parent for one in where.values()] == [checkout / ".hvg" / "work"] * 2

    runs = Store(Paths(checkout)).runs()
    children = {run.tags["hvg.experiment"]: run for run in runs if run.parent}
    parents = {run.tags["hvg.experiment"]: run for run in runs if not run.parent}
    assert {name: run.metrics["loss"] for name, run in children.items()} == {"one": 1.0, "two": 2.0}
    assert {name: run.params["seed"] for name, run in parents.items()} == {"one": "1", "two": "2"}
    assert all(children[name].parent == parents[name].id for name in parents)
    client = MlflowClient(Store(Paths(checkout)).uri)
    assert {client.get_run(run.id).info.run_name for run in parents.values()} == {"one", "two"}
    assert not list(checkout.parent.rglob("hurt"))


def test_one_without_a_queue_runs_in_the_checkout(checkout):
    said = run(checkout, "dvc", "exp", "run", "-n", "three", "-S", "seed=3")
    assert (checkout / "told.json").is_file(), said
    told = json.loads((checkout / "told.json").read_text())
    assert told["copy"] == str(checkout)
    assert (checkout / told["work"]).parent == checkout / ".hvg" / "work"
    assert experiments(checkout) == {"three": told}
    runs = Store(Paths(checkout)).runs()
    assert [(run.tags["hvg.experiment"], run.status) for run in runs] == [("three", "FINISHED")] * 2
    assert {run.metrics["loss"] for run in runs if run.parent} == {3.0}

"""dvc.yaml: its graph for any number of levels, what a changed parameter re-runs, and code deps that are complete."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
GRAPH: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
spec = importlib.util.spec_from_file_location("deps", ROOT / ".ci" / "deps.py")
assert spec and spec.loader
deps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(deps)


@pytest.mark.parametrize("name", GRAPH)
def test_deps_are_what_a_stage_imports(name):
    body = GRAPH[name].get("do", GRAPH[name])
    if not deps.stage_module(body["cmd"]).is_file():
        pytest.fail(f"{deps.stage_module(body['cmd'])} does not exist")
    there = {dep for dep in body["deps"] if deps.is_code(dep)}
    imported = deps.closure(deps.stage_module(body["cmd"]))
    assert there == imported, (
        f"{name} in dvc.yaml: `.venv/bin/python .ci/deps.py` mends it\n"
        f"add:    {sorted(imported - there)}\nremove: {sorted(there - imported)}"
    )


def test_the_closure_follows_lazy_and_indirect_imports(tmp_path):
    files = {
        "stages/__init__.py": "",
        "stages/toy.py": "def main():\n    from pipeline.data import reader\n",
        "pipeline/__init__.py": "",
        "pipeline/data/__init__.py": "",
        "pipeline/data/reader.py": "import torch\nimport models.net as net\n",
        "pipeline/data/unused.py": "x = 1",
        "models/__init__.py": "from models import table\n",
        "models/net.py": "x = 1",
        "models/table.csv": "x",
        "models/texts/a.html": "x",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert deps.closure(tmp_path / "stages" / "toy.py", tmp_path) == {file for file, text in files.items() if text} - {
        "pipeline/data/unused.py"
    }


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_says_what_it_does_and_reads(name):
    body = GRAPH[name].get("do", GRAPH[name])
    assert body["desc"] and body["params"] and body["deps"]
    assert body["cmd"].startswith("PATH=.venv/bin:$PATH hvg run ")


@pytest.fixture
def project(tmp_path):
    """A copy of the graph with commands that only make their outs: what runs is what would run."""
    graph: Any = json.loads(json.dumps({"stages": GRAPH}))
    for stage in graph["stages"].values():
        body = stage.get("do", stage)
        outs = [*body.get("outs", []), *(next(iter(metric)) for metric in body.get("metrics", []))]
        body["cmd"] = [f"{sys.executable} make.py {out}" for out in outs]
        body["deps"] = [dep for dep in body["deps"] if not deps.is_code(dep)]
    YAML().dump(graph, tmp_path / "dvc.yaml")
    (tmp_path / "make.py").write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "out.parent.mkdir(parents=True, exist_ok=True)\n"
        "if out.suffix in {'.json', '.html'}: out.write_text(f'{{\"made\": {time.time()}}}')\n"
        "else:\n"
        "    out.mkdir()\n"
        "    for name in ['listing.csv', 'videos.parquet']: (out / name).write_text(f'{out} {time.time()}')\n"
    )
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    shutil.copy(ROOT / "recipes" / "shapes.yaml", tmp_path / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)  # noqa: S607
    return tmp_path


def dvc(folder: Path, *args: str) -> str:
    env = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    command = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def change(folder: Path, edit) -> None:
    params = YAML(typ="safe").load(folder / "params.yaml")
    edit(params)
    YAML().dump(params, folder / "params.yaml")


def outdated(folder: Path) -> set[str]:
    return set(json.loads(dvc(folder, "status", "--json")))


def three_levels(params) -> None:
    params["levels"]["3"] = {**params["levels"]["2"], "condition": "data/samples/level-2"}
    params["views"]["3"] = {"frames": 16, "size": 64}
    params["last"] = "3"
    params["shapes"] = {}


def test_two_levels(project):
    assert [line.split()[0] for line in dvc(project, "stage", "list").splitlines()] == [
        "make-shapes@shapes",
        "decode",
        "train-level@1",
        "train-level@2",
        "generate-level@1",
        "generate-level@2",
        "evaluate",
        "report",
    ]


def test_three_levels_of_videos_that_exist(project):
    change(project, three_levels)
    graph = dvc(project, "dag", "--dot")
    edges = {
        tuple(part.strip().strip('";') for part in line.split("->")) for line in graph.splitlines() if "->" in line
    }
    assert "make-shapes" not in graph
    assert {("generate-level@1", "train-level@2"), ("generate-level@2", "train-level@3")} <= edges
    assert {("generate-level@3", "evaluate"), ("evaluate", "report")} <= edges
    assert ("generate-level@1", "train-level@3") not in edges
    assert not any(to == "train-level@1" for made, to in edges if made != "decode")


def test_a_parameter_of_level_2_leaves_level_1_alone(project):
    dvc(project, "repro")
    assert outdated(project) == set()
    change(project, lambda params: params["levels"]["2"]["training"].update(iterations=7))
    assert outdated(project) == {"train-level@2"}
    out = dvc(project, "repro")
    ran = [line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")]
    assert ran == ["train-level@2", "generate-level@2", "evaluate", "report"]
    change(project, lambda params: params["data"].update(root="/elsewhere"))
    assert outdated(project) == set()  # a data set may move
    assert "up to date" in dvc(project, "repro")


def test_no_name_of_params_reaches_a_shell(project):
    """`hvg run` reads of which level or key it is from DVC_STAGE; the commands are the same for all."""
    name = "a; touch hurt; '$(touch hurt)"
    change(project, lambda params: params.update(shapes={name: params["shapes"]["shapes"]}))
    graph = YAML(typ="safe").load(project / "dvc.yaml")
    graph["stages"]["make-shapes"]["do"]["cmd"] = GRAPH["make-shapes"]["do"]["cmd"]
    YAML().dump(graph, project / "dvc.yaml")
    (project / ".venv" / "bin").mkdir(parents=True)
    stand_in = project / ".venv" / "bin" / "hvg"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$DVC_STAGE" "$@" > told\nmkdir -p "data/${DVC_STAGE#*@}"\n')
    stand_in.chmod(0o755)
    dvc(project, "repro", "--single-item", f"make-shapes@{name}")
    assert (project / "told").read_text().splitlines() == [f"make-shapes@{name}", "run", "make-shapes"]
    assert not (project / "hurt").exists()
    assert not [body for body in GRAPH.values() if "${" in body.get("do", body)["cmd"]]

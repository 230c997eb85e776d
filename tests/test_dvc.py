"""dvc.yaml: its graph for any number of levels, what a change re-runs, and deps that hold all the code a stage runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.code_hash import PACKAGES, SHOWS, file_of, imported

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "dvc.yaml").read_text()
GRAPH: dict[str, Any] = YAML(typ="safe").load(TEXT)["stages"]
SHOWN = ("pipeline.checkout", "pipeline.media", "pipeline.report", "pipeline.runs")  # what the page is made of


def code(stage: dict[str, Any]) -> list[str]:
    """The deps of a stage that are the project's code."""
    return [dep for dep in stage.get("do", stage)["deps"] if dep.split("/")[0] in PACKAGES]


@pytest.mark.parametrize("name", GRAPH)
def test_what_a_stage_imports_lies_within_its_deps(name):
    deps = code(GRAPH[name])
    without = tuple(module for module in SHOWS if name != "report" or module not in SHOWN)
    stage = GRAPH[name].get("do", GRAPH[name])["cmd"].rpartition(" ")[2].replace("-", "_")
    files = [file_of(module) for module in imported(f"stages.{stage}", without=without)]
    files = [file.relative_to(ROOT) for file in files if file is not None and file.stat().st_size]
    assert ROOT.joinpath("stages", f"{stage}.py").is_file() and files
    assert [str(file) for file in files if not any(file.is_relative_to(dep) for dep in deps)] == []
    assert [dep for dep in deps if not any(file.is_relative_to(dep) for file in files)] == []


def test_a_person_can_read_it():
    assert len(TEXT.splitlines()) < 200
    assert max(len(code(stage)) for stage in GRAPH.values()) <= 10


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_says_what_it_does_and_reads(name):
    body = GRAPH[name].get("do", GRAPH[name])
    assert body["desc"] and body["params"] and body["deps"]
    assert body["cmd"].startswith("PATH=$DVC_ROOT/.venv/bin:$PATH exec hvg run ")


@pytest.mark.parametrize("shell", [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)])
def test_a_stage_is_dvcs_own_child(tmp_path, shell):
    """A shell between them would outlive DVC, and keep from the stage that it has been killed."""
    hvg = tmp_path / ".venv/bin/hvg"
    hvg.parent.mkdir(parents=True)
    hvg.write_text("#!/bin/sh\necho $$ $2\n")
    hvg.chmod(0o755)
    command = GRAPH["decode"]["cmd"]
    env = {**os.environ, "DVC_ROOT": str(tmp_path)}
    with subprocess.Popen([shell, "-c", command], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == f"{process.pid} decode\n"


@pytest.fixture
def project(tmp_path):
    """A copy of the graph with commands that only make their outs: what runs is what would run."""
    graph: Any = json.loads(json.dumps({"stages": GRAPH}))
    for stage in graph["stages"].values():
        body = stage.get("do", stage)
        outs = [*body.get("outs", []), *body.get("metrics", [])]
        names = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        body["cmd"] = [f"{sys.executable} make.py {out}" for out in names]
        body["deps"] = [dep for dep in body["deps"] if dep not in code(stage)]
    YAML().dump(graph, tmp_path / "dvc.yaml")
    (tmp_path / "make.py").write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "out.parent.mkdir(parents=True, exist_ok=True)\n"
        "if out.suffix in {'.json', '.html'}: out.write_text(f'{{\"made\": {time.time()}}}')\n"
        "else:\n"
        "    out.mkdir(exist_ok=True)\n"
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
    of_level_2 = {"condition": "data/conditions/level-2", "below": "data/samples/level-2"}
    params["levels"]["3"] = {**params["levels"]["2"], **of_level_2}
    params["conditions"]["2"] = {**params["conditions"]["1"], "condition": "data/conditions/level-1"}
    params["views"]["3"] = {"frames": 16, "size": 64}
    params["shapes"] = {}


def test_two_levels(project):
    assert [line.split()[0] for line in dvc(project, "stage", "list").splitlines()] == [
        "make-shapes@shapes",
        "decode",
        "train-level@1",
        "train-level@2",
        "generate-level@1",
        "sample-level@1",
        "sample-level@2",
        "evaluate",
        "report",
    ]


def test_one_level(project):
    shutil.copy(ROOT / "recipes" / "shapes-64.yaml", project / "params.yaml")
    stages = [line.split()[0] for line in dvc(project, "stage", "list").splitlines()]
    assert stages == ["make-shapes@shapes-64", "decode", "train-level@1", "sample-level@1", "evaluate", "report"]
    dvc(project, "repro")
    assert outdated(project) == set()


def test_three_levels_of_videos_that_exist(project):
    change(project, three_levels)
    graph = dvc(project, "dag", "--dot")
    edges = {
        tuple(part.strip().strip('";') for part in line.split("->")) for line in graph.splitlines() if "->" in line
    }
    assert "make-shapes" not in graph
    assert {("generate-level@1", "train-level@2"), ("generate-level@2", "train-level@3")} <= edges
    assert {("generate-level@1", "generate-level@2"), ("sample-level@1", "sample-level@2")} <= edges
    assert {("sample-level@3", "evaluate"), ("evaluate", "report")} <= edges
    assert ("generate-level@1", "train-level@3") not in edges and "generate-level@3" not in graph
    assert not [to for made, to in edges if made.startswith("sample") and to.startswith(("train", "generate"))]
    assert not any(to == "train-level@1" for made, to in edges if made != "decode")


def test_a_parameter_of_level_2_leaves_level_1_alone(project):
    dvc(project, "repro")
    assert outdated(project) == set()
    change(project, lambda params: params["levels"]["2"]["training"].update(iterations=7))
    assert outdated(project) == {"train-level@2"}
    out = dvc(project, "repro")
    ran = [line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")]
    assert ran == ["train-level@2", "sample-level@2", "evaluate", "report"]
    change(project, lambda params: params["data"].update(root="/elsewhere"))
    assert outdated(project) == set()  # a data set may move
    assert "up to date" in dvc(project, "repro")


@pytest.mark.parametrize(
    "edit",
    [
        lambda params: params["sigma"].update(figures=0.4),
        lambda params: params["samples"].update(figures=8),
        lambda params: params["samples"].update(windows=8),
        lambda params: params["samples"].update(videos=80),
        lambda params: params["evaluation"].update(videos=8, psd_sets=2),
    ],
)
def test_what_is_judged_and_shown_trains_nothing(project, edit):
    dvc(project, "repro")
    change(project, edit)
    stages = outdated(project)
    assert stages and not [name for name in stages if name.startswith(("train", "generate", "decode"))]


@pytest.mark.parametrize("out", ["artifacts/level-1", "data/samples/level-1"])
def test_the_page_follows_every_level(project, out):
    dvc(project, "repro")
    for name in ("videos.parquet", "listing.csv"):
        (project / out / name).write_text("of a level 1 that was trained anew, its samples the same or not")
    dvc(project, "commit", "--force", f"{'train' if 'artifacts' in out else 'sample'}-level@1")
    assert "report" in outdated(project)
    assert ("evaluate" in outdated(project)) == ("samples" in out)


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

"""`hvg runs` on a real store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.commands import runs
from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.runs import tracking

PARAMS = load_params(Path(__file__).parents[3] / "recipes" / "shapes.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory, database):
    paths = Paths(tmp_path_factory.mktemp("project"))
    shutil.copy(database, paths.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(runs, "PATHS", paths)
        (paths.root / "picture.png").write_bytes(b"x")
        for level in (1, 2):
            with tracking.run(PARAMS, f"train level {level}", inputs=str(level), paths=paths) as run:
                run.log({"loss": 1.0 * level})
                run.keep(paths.root / "picture.png", "pictures")
        yield paths


def hvg(*args):
    return CliRunner().invoke(runs.runs, list(args), catch_exceptions=False)


def test_a_run_is_opened_down_to_its_files(project):
    parent, first, second = json.loads(hvg("--json").output)
    shown = hvg(parent["id"][:12]).output
    assert shown == hvg(second["id"]).output
    assert [line.split() for line in shown.splitlines() if not line.startswith(" ")] == [
        [*run["name"].split(), run["id"]] for run in (parent, first, second)
    ]
    assert shown.count("\n  pictures/picture.png") == 2
    assert ["seed", str(PARAMS.seed)] in [line.split() for line in shown.splitlines()]
    opened = json.loads(hvg(first["id"], "--json").output)
    assert [run["files"] for run in opened] == [[], ["pictures/picture.png"], ["pictures/picture.png"]]


def test_runs_are_filtered(project):
    assert [run["name"] for run in json.loads(hvg("--level", "2", "--json").output)] == ["train level 2"]
    assert "train level 1" in hvg("--name", "train", "--status", "finished").output
    assert hvg("--status", "killed").output == "no such runs\n"


def test_what_is_no_number_is_null_in_json(project):
    with tracking.run(PARAMS, "x", paths=project) as run:
        run.log({"loss": float("nan")})
    (shown,) = json.loads(hvg("--name", "x", "--json").output, parse_constant=pytest.fail)
    assert shown["metrics"] == {"loss": None}


def test_a_terminal_is_not_overrun(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = hvg("--name", "train").output.splitlines()
    assert max(map(len, lines)) <= 50 and lines.count("") == 1  # a name and one column at least, twice


def test_two_are_compared_on_a_page(project, tmp_path):
    with tracking.run(replace(PARAMS, seed=1), "train level 1", inputs="3", paths=project) as run:
        run.log({"loss": 9.0})
        run.keep(project.root / "picture.png", "pictures")
    left, right = (run["id"] for run in json.loads(hvg("--json").output) if run["parent"] is None)
    page = tmp_path / "page" / "index.html"
    assert hvg("compare", left[:12], run.id or "", "--out", str(page.parent)).output == f"the page: {page}\n"
    text = page.read_text()
    assert left[:8] in text and right[:8] in text and "seed" in text
    assert [file.read_bytes() for file in page.parent.rglob("*.png")] == [b"x"] * 3
    with pytest.raises(UserError, match="belong to one reproduction"):
        hvg("compare", right, run.id or "")

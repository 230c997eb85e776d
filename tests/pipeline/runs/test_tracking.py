"""Tracking with a real MLflow store in a temporary folder."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.runs import tracking
from pipeline.runs.store import Store

ROOT = Path(__file__).parents[3]
PARAMS = load_params(ROOT / "recipes" / "shapes.yaml")


@pytest.fixture(scope="module")
def paths(tmp_path_factory, database):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("project")
        shutil.copy(database, root)
        yield Paths(root)


@pytest.fixture
def shared(tmp_path, monkeypatch, database):
    """A store that checkouts share."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(database, tmp_path / 'server.db')}")


def test_nothing_where_nothing_ran(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Store(Paths(tmp_path)).runs() == []
    assert not (tmp_path / "mlflow.db").exists()


def curve(run_id, paths):
    """What MLflow itself says of the metric "loss": the last value of every step."""
    history = MlflowClient(Store(paths).uri).get_metric_history(run_id, "loss")
    return sorted({metric.step: metric.value for metric in sorted(history, key=lambda m: m.timestamp)}.items())


def test_a_reproduction_has_children_with_curves_and_files(paths, tmp_path):
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.params({"generator": {"channels": 16}})
        for step in range(3):
            run.log({"loss": step / 2, "rate": 1.0}, step=step)
        (tmp_path / "picture.png").touch()
        run.keep(tmp_path / "picture.png", "pictures")
    with tracking.run(PARAMS, "evaluate", inputs="b", paths=paths) as other:
        other.log({"random_i3d_fvd": 3.5})
    parent, first, second = Store(paths).runs()
    assert (parent.name, parent.parent, parent.status) == ("reproduction", None, "FINISHED")
    assert parent.params["levels.2.training.batch"] == str(PARAMS.levels["2"].training.batch)
    assert (first.name, first.parent, first.id) == ("train level 1", parent.id, run.id)
    assert first.tags["hvg.level"] == "1" and first.tags["hvg.stage"] == "train"
    assert (first.status, first.params, first.metrics["loss"]) == ("FINISHED", {"generator.channels": "16"}, 1.0)
    assert second.parent == parent.id and second.metrics == {"random_i3d_fvd": 3.5}
    assert curve(run.id, paths) == [(0, 0.0), (1, 0.5), (2, 1.0)]
    (tmp_path / "sample.txt").write_text("x")
    Store(paths).keep(parent.id, tmp_path / "sample.txt")
    assert list((paths.state / "mlartifacts").rglob("sample.txt"))
    assert list((paths.state / "mlartifacts").glob(f"{run.id}/**/pictures/picture.png"))
    assert (paths.root / "mlflow.db").is_file()


def test_how_a_run_ends_is_told(paths):
    for name, error, status in [("x one", ValueError, "FAILED"), ("x two", KeyboardInterrupt, "KILLED")]:
        with pytest.raises(error), tracking.run(PARAMS, name, inputs="c", paths=paths) as run:
            run.log({"loss": 1.0})
            raise error
        (found,) = Store(paths).runs(name)
        assert (found.id, found.status, found.metrics) == (run.id, status, {"loss": 1.0})


def test_a_project_is_the_same_under_another_path_and_another_one_is_not(tmp_path, shared):
    here, there = tmp_path / "here", tmp_path / "elsewhere" / "mounted"
    experiment = here / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    experiment.mkdir(parents=True)
    with tracking.run(PARAMS, "one", paths=Paths(here)):
        pass
    there.parent.mkdir()
    here.rename(there)  # what a pod sees: the same files, no path in common
    for name, root in (("two", there), ("three", there / experiment.relative_to(here)), ("four", tmp_path / "other")):
        with tracking.run(PARAMS, name, paths=Paths(root)):
            pass
    found = Store(Paths(there)).runs()
    first, second = [run.id for run in found if run.name == "reproduction"]
    children = {run.name: run.parent for run in found if run.parent}
    assert children == {"one": first, "two": first, "three": first, "four": second}


def test_a_killed_run_is_continued_and_a_finished_one_is_not(paths):
    program = f"""if True:
        import os, signal
        from pathlib import Path
        from pipeline.runs import tracking
        from pipeline.params import load_params
        from pipeline.paths import Paths
        params = load_params(Path({str(ROOT / "recipes" / "shapes.yaml")!r}))
        with tracking.run(params, "train level 2", inputs="d", paths=Paths(Path({str(paths.root)!r}))) as run:
            run.log({{"loss": 1.0}}, step=0)
            run.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, env=dict(os.environ)).returncode == -9
    (killed,) = Store(paths).runs("train level 2")
    assert killed.status == "RUNNING"
    changed = replace(PARAMS, seed=1)  # another reproduction, but the same inputs of this level
    with tracking.run(changed, "train level 2", inputs="d", paths=paths) as run:
        run.log({"loss": 0.5}, step=0)  # this step is done again
        run.log({"loss": 0.25}, step=1)
    assert run.id == killed.id
    assert curve(run.id, paths) == [(0, 0.5), (1, 0.25)]
    with tracking.run(changed, "train level 2", inputs="d", paths=paths) as again:
        pass
    assert again.id != killed.id


def test_a_reproduction_ends_with_the_last_of_its_runs_as_badly_as_the_worst(paths):
    params = replace(PARAMS, seed=2)  # a reproduction of its own

    def status() -> str:
        found = {run.id: run for run in Store(paths).runs()}
        return next(found[run.parent].status for run in found.values() if run.name == "side one" and run.parent)

    with tracking.run(params, "side one", inputs="1", paths=paths) as first:
        first.flush()
        with pytest.raises(ValueError), tracking.run(params, "side two", inputs="2", paths=paths):
            raise ValueError
        assert status() == "RUNNING"
    assert status() == "FAILED"
    with tracking.run(params, "side two", inputs="2", paths=paths):  # tried again
        assert status() == "RUNNING"
    assert status() == "FINISHED"


def test_runs_of_another_checkout_are_not_ones_own(tmp_path, monkeypatch, shared):
    here, there = Paths(tmp_path / "here"), Paths(tmp_path / "there")
    with tracking.run(PARAMS, "one", paths=here):
        pass
    monkeypatch.setenv("DVC_EXP_NAME", "wider")
    with tracking.run(PARAMS, "two", paths=here):
        pass
    found = {run.name: run for run in Store(there).runs() if run.parent}
    own = {name: [tracking.of_this_checkout(run, paths) for paths in (here, there)] for name, run in found.items()}
    assert own == {"one": [False, False], "two": [True, False]}
    monkeypatch.delenv("DVC_EXP_NAME")
    assert tracking.of_this_checkout(found["one"], here)

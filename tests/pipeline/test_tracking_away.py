"""A tracking server that is away, comes back, refuses or can never be: training goes on, and no number is lost."""

import json
import logging
import shutil
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.runs import journal
from pipeline.runs.store import Store
from tests.pipeline.mlflow_server import free_port, mlflow_server

PARAMS = load_params(Path(__file__).parents[2] / "recipes" / "shapes.yaml")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty store: MLflow takes seconds to make one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store(Paths(tmp_path_factory.mktemp("store")))
        _ = store.client
        return store.database


@pytest.fixture
def paths(tmp_path, monkeypatch, database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    (tmp_path / "project").mkdir()
    shutil.copy(database, tmp_path / "project")
    return Paths(tmp_path / "project")


def waiting(paths):
    return [path.read_text() for path in sorted((paths.state / "tracking").glob("*.jsonl"))]


class Server:
    """Stands in for MLflow's client: every question fails, and is counted."""

    def __init__(self, error):
        self.error, self.asked = error, 0

    def __getattr__(self, name):
        def ask(*_args, **_kwargs):
            self.asked += 1
            raise self.error

        return ask


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_that_stops_and_starts_gets_every_number(paths, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"first")
    first = ""
    with pytest.raises(ValueError, match="training's own"):  # noqa: SIM117 - the order is the story
        with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
            run.params({"generator": {"channels": 16}})
            run.log({"loss": 4.0}, step=0)
            run.keep(picture, "pictures")
            picture.write_bytes(b"another")  # what is kept is what it was
            assert run.id is None
            with mlflow_server(tmp_path, port):
                run.flush()
                assert run.id is not None
                first = run.id
                (met,) = tracking.find_runs(paths, "train level 1")
                assert (met.id, met.status, met.metrics) == (first, "RUNNING", {"loss": 4.0})
                run.log({"loss": 3.0}, step=1)
            run.log({"loss": 2.0}, step=2)
            run.flush()
            raise ValueError("training's own")
    said = [record.message for record in caplog.records if record.name == "pipeline.tracking"]
    assert [line.partition(" at ")[0] for line in said] == ["MLflow"] * 3
    assert ["does not answer" in line for line in said] == [True, False, True]
    assert "answers again" in said[1]
    assert str(paths.state / "tracking") in said[0]
    with pytest.raises(tracking.Away, match="does not answer"):
        tracking.find_runs(paths)

    with mlflow_server(tmp_path, port) as url:
        tracking.send_waiting(paths)
        client = MlflowClient(url)
        parent, child = tracking.find_runs(paths)
        assert (child.id, child.status, child.parent) == (first, "FAILED", parent.id)
        assert (parent.status, parent.params["seed"]) == ("FAILED", str(PARAMS.seed))
        assert child.params == {"generator.channels": "16"}
        history = client.get_metric_history(child.id, "loss")
        assert sorted((metric.step, metric.value) for metric in history) == [(0, 4.0), (1, 3.0), (2, 2.0)]
        assert [
            file.read_bytes() for file in tracking.fetch(child.id, tracking.files(child.id, paths), tmp_path, paths)
        ] == [b"first"]
    assert [file.name for file in (paths.state / "tracking").iterdir()] == ["id"]


def test_a_server_that_is_away_is_asked_ever_more_rarely(paths, monkeypatch):
    away = Server(MlflowException("API request to … failed"))
    monkeypatch.setattr(Store, "client", away)
    clock = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        for step in range(3600):
            clock[0] += 1
            run.log({"loss": 1.0}, step=step)
    # At 0 s, then after waits of 20, 40, 80, 160 and ever again 300 s (and a second), and at the end.
    assert away.asked == 1 + 4 + (3600 - 304) // 301 + 1
    (text,) = waiting(paths)
    told = [json.loads(line) for line in text.splitlines()[1:]]
    assert [entry["metrics"][0][3] for entry in told[:-1]] == list(range(3600))
    assert told[-1]["status"] == "FINISHED"


def test_numbers_of_a_killed_process_come_first_and_into_one_run(paths, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "client", Server(OSError("no route")))
        with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
            run.log({"loss": 2.0}, step=1)
    (path,) = (paths.state / "tracking").glob("*.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + '\n{"metrics": [["loss", 1')  # killed while it wrote
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 1.0}, step=2)
    (found,) = tracking.find_runs(paths, "train level 1")
    history = MlflowClient(Store(paths).uri).get_metric_history(found.id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]
    assert found.status == "FINISHED"


def test_telling_twice_changes_nothing(paths, tmp_path):
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 2.0}, step=1)
        (path,) = (paths.state / "tracking").glob("*.jsonl")
        before = path.read_text()
        run.flush()
        assert path.read_text() != before
        path.write_text(before)  # as if killed between sending and striking
        run.flush()
    assert len(MlflowClient(Store(paths).uri).get_metric_history(str(run.id), "loss")) == 1
    assert len(tracking.find_runs(paths)) == 2


def test_what_is_refused_is_left_out_with_a_warning(paths, caplog):
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        run.params({"a": 1})
        run.flush()
        run.params({"a": 2})
        run.log({"loss": 1.0})
    (found,) = tracking.find_runs(paths, "train level 1")
    assert (found.params, found.metrics, found.status) == ({"a": "1"}, {"loss": 1.0}, "FINISHED")
    assert [r.message.startswith("MLflow does not take parameters") for r in caplog.records] == [True]


def test_a_parent_that_was_killed_without_parameters_gets_them(paths):
    with tracking.run(PARAMS, "x", paths=paths):
        pass
    parent, _ = tracking.find_runs(paths)
    client = MlflowClient(Store(paths).uri)
    client.delete_run(parent.id)
    experiment = Store(paths).experiment()
    bare = client.create_run(experiment, tags=parent.tags)
    with tracking.run(PARAMS, "y", paths=paths):
        pass
    assert client.get_run(bare.info.run_id).data.params == parent.params


@pytest.mark.parametrize("uri", ["foo://x", "./mlruns", "http://", "http://host:port", "https://user:secret@"])
def test_a_uri_that_can_never_work_is_told_at_once(paths, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="cannot be used") as told, tracking.run(PARAMS, "train level 1", paths=paths):
        pytest.fail("it began")
    assert str(told.value).startswith("MLFLOW_TRACKING_URI: ")
    assert "secret" not in str(told.value)
    assert waiting(paths) == []


def test_names_and_passwords_are_never_told(paths, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@127.0.0.1:{free_port()}")
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        run.log({"loss": 1.0})
    with pytest.raises(tracking.Away) as away:
        tracking.find_runs(paths)
    everything = f"{caplog.text} {away.value} {tracking.store_uri(paths)} {waiting(paths)}"
    assert "does not answer" in caplog.text and "127.0.0.1" in everything
    assert "hunter2" not in everything and "somebody" not in everything


@pytest.mark.parametrize("place", ["file", "bucket"])
def test_a_store_of_files_that_cannot_be_written_keeps_no_number_back(paths, tmp_path, monkeypatch, caplog, place):
    (tmp_path / "occupied").touch()
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    where = {"file": (tmp_path / "occupied" / "files").as_uri(), "bucket": "s3://bucket/files"}[place]
    Store(paths).client.create_experiment("hvg", artifact_location=where)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"pixels")
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        for step in range(2):
            run.log({"loss": 1.0}, step=step)
            run.keep(picture, "pictures")
    with tracking.run(PARAMS, "evaluate", paths=paths) as run:
        run.log({"distance": 2.0})
    parent, *runs = tracking.find_runs(paths)
    assert [(run.status, run.metrics) for run in runs] == [("FINISHED", {"loss": 1.0}), ("FINISHED", {"distance": 2.0})]
    assert parent.status == "FINISHED"
    assert waiting(paths) == []
    (said,) = [record.message for record in caplog.records]
    assert "picture.png cannot be stored" in said and {"file": "occupied", "bucket": "boto3"}[place] in said
    assert "does not answer" not in said


def test_a_file_waits_where_the_server_itself_goes_away(paths, tmp_path, monkeypatch, caplog):
    (tmp_path / "picture.png").touch()
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        with monkeypatch.context() as patch:
            patch.setattr(run._store, "client", Server(ConnectionError("gone")))
            run.keep(tmp_path / "picture.png")
        assert run.id is not None and tracking.files(run.id, paths) == []
        (said,) = [record.message for record in caplog.records]
        assert "does not answer: gone" in said
    assert tracking.files(run.id, paths) == ["picture.png"]


def test_a_journal_that_cannot_be_sent_keeps_no_other_back(paths, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "client", Server(OSError("no route")))
        for name in ("train level 1", "train level 2"):
            with tracking.run(PARAMS, name, paths=paths) as run:
                run.log({"loss": 2.0})
    caplog.clear()
    first = min((paths.state / "tracking").glob("*.jsonl"))
    first.write_text("no JSON\n" + first.read_text().partition("\n")[2])
    with tracking.run(PARAMS, "train level 3", paths=paths) as run:
        run.log({"loss": 3.0})
        run.flush()
    found = {run.name: run.metrics for run in tracking.find_runs(paths) if run.parent}
    assert found == {"train level 2": {"loss": 2.0}, "train level 3": {"loss": 3.0}}
    (said,) = [record.message for record in caplog.records]
    assert f"{first} cannot be sent" in said and "does not answer" not in said
    assert len(waiting(paths)) == 1


def test_numbers_wait_for_their_own_server(paths, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        with tracking.run(PARAMS, "train level 1", paths=paths):
            pass
    tracking.send_waiting(paths)
    assert len(waiting(paths)) == 1
    assert tracking.find_runs(paths) == []


def test_there_is_an_end_to_what_is_kept(paths, monkeypatch, caplog):
    monkeypatch.setattr(journal, "LIMIT", 1000)
    monkeypatch.setattr(Store, "client", Server(OSError("no route")))
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        for step in range(100):
            run.log({"loss": 1.0}, step=step)
        run.params({"late": True})
        run.keep(Path(__file__))
    assert sum("are lost" in record.message for record in caplog.records) == 1
    assert 10 < waiting(paths)[0].count("loss") < 50
    assert [json.loads(line) for line in waiting(paths)[0].splitlines()[-2:]] == [
        {"params": {"late": "True"}},
        {"status": "FINISHED", "time": ANY},
    ]


def test_the_machine_is_measured(paths, monkeypatch):
    monkeypatch.setattr(tracking, "MACHINE_EVERY", 0.05)
    with tracking.run(PARAMS, "train level 1", paths=paths, machine=True) as run:
        run.log({"loss": 1.0}, step=7)
        (path,) = (paths.state / "tracking").glob("*.jsonl")
        while "system/" not in path.read_text():
            time.sleep(0.05)
    (found,) = tracking.find_runs(paths, "train level 1")
    assert 0 <= found.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.metrics["system/system_memory_usage_megabytes"] > 0
    history = MlflowClient(Store(paths).uri).get_metric_history(found.id, "system/cpu_utilization_percentage")
    assert history[-1].step == 7


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/x.db", "sqlite:////proc/x.db", "sqlite:///{folder}/text.db"])
def test_a_database_that_cannot_be_used_is_asked_once(paths, monkeypatch, tmp_path, uri):
    """MLflow would ask ten times, over 100 seconds, and be asked several times."""
    (tmp_path / "text.db").write_text("no database " * 100)
    monkeypatch.setattr("mlflow.store.db.utils.create_sqlalchemy_engine_with_retry", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 1.0})
    assert run.id is None
    (kept,) = waiting(paths)
    assert '"loss"' in kept and '"FINISHED"' in kept

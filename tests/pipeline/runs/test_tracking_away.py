"""A tracking server that is away, comes back, refuses or can never be: training goes on, and no number is lost."""

import json
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.runs import tracking
from pipeline.runs.store import Away, Store
from tests.pipeline.runs.mlflow_server import door, free_port

PARAMS = load_params(Path(__file__).parents[3] / "recipes" / "shapes.yaml")


@pytest.fixture
def paths(tmp_path, monkeypatch, database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    (tmp_path / "project").mkdir()
    shutil.copy(database, tmp_path / "project")
    return Paths(tmp_path / "project")


def files(paths):
    return sorted(paths.state.glob("work/*/run-*.jsonl"))


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines() if line]


def lacking(paths):
    """The files of which the store says that it has not all."""
    has = {run.tags.get("hvg.run"): run.tags.get("hvg.sent") for run in Store(paths).runs()}
    return [file for file in files(paths) if has.get(file.stem) != str(file.stat().st_size)]


def own(paths, name=None):
    """Runs of this checkout at a server that tests share."""
    return [run for run in Store(paths).runs(name) if tracking.of_this_checkout(run, paths)]


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
def test_a_server_that_stops_and_starts_gets_every_number(paths, tmp_path, monkeypatch, caplog, mlflow_port):
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
            assert run.id is None
            with door(port, mlflow_port):
                run.flush()
                assert run.id is not None
                first = run.id
                (met,) = own(paths, "train level 1")
                assert (met.id, met.status, met.metrics) == (first, "RUNNING", {"loss": 4.0})
                run.log({"loss": 3.0}, step=1)
            run.log({"loss": 2.0}, step=2)
            run.flush()
            raise ValueError("training's own")
    said = [record.message for record in caplog.records if record.name == "pipeline.runs.tracking"]
    assert [line.partition(" at ")[0] for line in said] == ["MLflow"] * 3
    assert ["does not answer" in line for line in said] == [True, False, True]
    assert "answers again" in said[1]
    assert str(files(paths)[0]) in said[0]
    with pytest.raises(Away, match="does not answer"):
        Store(paths).runs()

    with door(port, mlflow_port):
        tracking.send_waiting(Store(paths))
        client = MlflowClient(Store(paths).uri)
        parent, child = own(paths)
        assert (child.id, child.status, child.parent) == (first, "FAILED", parent.id)
        assert (parent.status, parent.params["seed"]) == ("FAILED", str(PARAMS.seed))
        assert child.params == {"generator.channels": "16"}
        history = client.get_metric_history(child.id, "loss")
        assert sorted((metric.step, metric.value) for metric in history) == [(0, 4.0), (1, 3.0), (2, 2.0)]
        (kept,) = Store(paths).files(child.id)
        assert Store(paths).fetch(child.id, kept, tmp_path / "fetched").read_bytes() == b"first"
        assert lacking(paths) == []


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
    (file,) = files(paths)
    start, *told, end = lines(file)
    assert (start["status"], end["status"]) == ("RUNNING", "FINISHED")
    assert [(entry["step"], entry["metrics"]) for entry in told] == [(step, {"loss": 1.0}) for step in range(3600)]


def test_numbers_of_a_killed_process_come_first_and_into_one_run(paths, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "client", Server(OSError("no route")))
        with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
            run.log({"loss": 2.0}, step=1)
    (file,) = files(paths)
    before = file.read_text().splitlines()[:-1]
    file.write_text("\n".join(before) + '\n{"metrics": {"loss": 1')  # killed while it wrote
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 1.0}, step=2)
    (found,) = Store(paths).runs("train level 1")
    history = MlflowClient(Store(paths).uri).get_metric_history(found.id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]
    assert found.status == "FINISHED"


def test_telling_twice_changes_nothing(paths, tmp_path):
    client = MlflowClient(Store(paths).uri)
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 2.0, "none": float("nan")}, step=1)
        run.flush()
        client.set_tag(str(run.id), "hvg.sent", "0")  # as if killed between the numbers and this
        tracking.Run(Store(paths), run.file).send()
        run.log({"loss": 1.0}, step=2)
    client.set_tag(str(run.id), "hvg.sent", "0")
    tracking.send_waiting(Store(paths))
    told = {name: client.get_metric_history(str(run.id), name) for name in ("loss", "none")}
    assert {name: [one.step for one in history] for name, history in told.items()} == {"loss": [1, 2], "none": [1]}
    assert [found.status for found in Store(paths).runs()] == ["FINISHED"] * 2
    assert lacking(paths) == []


def test_a_lost_database_is_filled_again(paths, database):
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.params({"a": 1})
        run.log({"loss": 2.0}, step=1)
    before = Store(paths).runs()
    shutil.copy(database, paths.root)
    assert Store(paths).runs() == []
    tracking.send_waiting(Store(paths))
    again = Store(paths).runs()
    assert [(one.name, one.status, one.params, one.metrics) for one in again] == [
        (one.name, one.status, one.params, one.metrics) for one in before
    ]
    assert {one.id for one in again}.isdisjoint(one.id for one in before)


def test_a_run_that_somebody_deletes_stays_so(paths):
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 2.0}, step=1)
    client = MlflowClient(Store(paths).uri)
    client.set_tag(str(run.id), "hvg.sent", "0")
    client.delete_run(str(run.id))
    tracking.send_waiting(Store(paths))
    assert [found.name for found in Store(paths).runs()] == ["reproduction"]


def test_what_is_refused_is_left_out_with_a_warning(paths, caplog):
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        run.params({"a": 1})
        run.flush()
        run.params({"a": 2})
        run.log({"loss": 1.0})
    (found,) = Store(paths).runs("train level 1")
    assert (found.params, found.metrics, found.status) == ({"a": "1"}, {"loss": 1.0}, "FINISHED")
    (said,) = [record.message for record in caplog.records]
    assert "does not take this" in said and "{'key': 'a', 'old_value': '1', 'new_value': '2'}" in said


def test_a_parent_that_was_killed_without_parameters_gets_them(paths):
    with tracking.run(PARAMS, "x", paths=paths):
        pass
    parent, _ = Store(paths).runs()
    client = MlflowClient(Store(paths).uri)
    client.delete_run(parent.id)
    bare = client.create_run(Store(paths).experiment, tags=parent.tags)
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
    assert files(paths) == []


def test_names_and_passwords_are_never_told(paths, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@127.0.0.1:{free_port()}")
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        run.log({"loss": 1.0})
    with pytest.raises(Away) as away:
        Store(paths).runs()
    everything = f"{caplog.text} {away.value} {Store(paths).shown} {[file.read_text() for file in files(paths)]}"
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
    parent, *runs = Store(paths).runs()
    assert [(run.status, run.metrics) for run in runs] == [("FINISHED", {"loss": 1.0}), ("FINISHED", {"distance": 2.0})]
    assert parent.status == "FINISHED"
    assert lacking(paths) == []
    (said,) = [record.message for record in caplog.records]
    assert "picture.png cannot be stored" in said and {"file": "occupied", "bucket": "boto3"}[place] in said
    assert "does not answer" not in said


def test_a_file_waits_where_the_server_itself_goes_away(paths, tmp_path, monkeypatch, caplog):
    (tmp_path / "picture.png").touch()
    with tracking.run(PARAMS, "train level 1", paths=paths) as run:
        with monkeypatch.context() as patch:
            patch.setattr(run._store, "client", Server(ConnectionError("gone")))
            run.keep(tmp_path / "picture.png")
        assert run.id is not None and list(Store(paths).files(run.id)) == []
        (said,) = [record.message for record in caplog.records]
        assert "does not answer: gone" in said
    assert list(Store(paths).files(run.id)) == ["picture.png"]


def test_a_file_that_cannot_be_sent_keeps_no_other_back(paths, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "client", Server(OSError("no route")))
        for name in ("train level 1", "train level 2"):
            with tracking.run(PARAMS, name, paths=paths) as run:
                run.log({"loss": 2.0})
    caplog.clear()
    first, _ = files(paths)
    first.write_text("\nno JSON\n" + first.read_text().lstrip().partition("\n")[2])
    with tracking.run(PARAMS, "train level 3", paths=paths) as run:
        run.log({"loss": 3.0})
        run.flush()
    found = {run.name: run.metrics for run in Store(paths).runs() if run.parent}
    assert found == {"train level 2": {"loss": 2.0}, "train level 3": {"loss": 3.0}}
    (said,) = [record.message for record in caplog.records]
    assert f"{first} cannot be sent" in said and "does not answer" not in said
    assert lacking(paths) == [first]


def test_numbers_wait_for_their_own_server(paths, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        with tracking.run(PARAMS, "train level 1", paths=paths):
            pass
    tracking.send_waiting(Store(paths))
    assert lacking(paths) == files(paths) != []
    assert Store(paths).runs() == []


def test_the_machine_is_measured(paths):
    with tracking.run(PARAMS, "train level 1", paths=paths, machine=True) as run:
        run.log({"loss": 1.0}, step=7)
    (found,) = Store(paths).runs("train level 1")
    assert 0 <= found.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.metrics["system/system_memory_usage_megabytes"] > 0
    (one,) = MlflowClient(Store(paths).uri).get_metric_history(found.id, "system/cpu_utilization_percentage")
    assert one.step == 7


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/x.db", "sqlite:////proc/x.db", "sqlite:///{folder}/text.db"])
def test_a_database_that_cannot_be_used_is_asked_once(paths, monkeypatch, tmp_path, uri):
    """MLflow would ask ten times, over 100 seconds, and be asked several times."""
    (tmp_path / "text.db").write_text("no database " * 100)
    slept = []
    monkeypatch.setattr("mlflow.store.db.utils.time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    with tracking.run(PARAMS, "train level 1", inputs="a", paths=paths) as run:
        run.log({"loss": 1.0})
    assert run.id is None
    (file,) = files(paths)
    _, number, end = lines(file)
    assert (number["metrics"], end["status"], slept) == ({"loss": 1.0}, "FINISHED", [])

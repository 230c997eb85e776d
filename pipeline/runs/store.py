"""MLflow's store: a reproduction's runs found or made, journals sent to it, runs read from it.

Nothing else of the project knows MLflow, but `system`, which measures the machine by it.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.paths import Paths, origin
from pipeline.runs.database import prepare
from pipeline.runs.journal import Journal
from pipeline.urls import without_secrets

log = logging.getLogger(__name__)

URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "hvg"
AT_ONCE = 1000  # metrics a request may hold; of parameters a tenth
# What a server says of a request that it will never accept: a run that somebody has deleted, a parameter that changed.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_PARENT = "mlflow.parentRunId"


class Away(UserError):
    """The tracking server does not answer, or answers that it cannot now."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run as MLflow has it."""

    id: str
    name: str  # train level 2; "reproduction" for a parent
    parent: str | None  # id
    status: str  # RUNNING (or killed without a word), FINISHED, FAILED, KILLED
    start: datetime
    params: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: what is no finite number is None."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {**asdict(self), "start": self.start.isoformat(), "metrics": metrics}


class Store:
    """The store at MLFLOW_TRACKING_URI, or mlflow.db in the project's root. Asked nothing before it must be."""

    def __init__(self, paths: Paths) -> None:
        self._root = origin(paths.root).resolve()
        self.given = os.environ.get(URI)
        self.uri = self.given or f"sqlite:///{self.database}"
        self.shown = without_secrets(self.uri, self.uri)
        self._no_files: set[Path] = set()  # journals of which it was said that a file cannot be stored

    @property
    def database(self) -> Path:
        """The file that stands in where no server is named."""
        return self._root / "mlflow.db"

    @cached_property
    def client(self) -> Any:
        """MLflow's client. Raises UserError where MLFLOW_TRACKING_URI is one that can never work."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with name and password
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # What is not said now is said later, by us: a training never waits minutes for a server.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for chatty in ("alembic", "mlflow", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            if urlsplit(self.uri).scheme in ("http", "https"):
                assert urlsplit(self.uri).hostname, "it names no host"
                _ = urlsplit(self.uri).port
            prepare(self.uri, Paths(self._root).state)
            return MlflowClient(self.uri)
        except (AssertionError, ImportError, ValueError) as error:
            raise self._never(error) from error
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise self._never(error) from error

    def check(self) -> None:
        """Raise UserError where MLFLOW_TRACKING_URI can never work. A server that is away is no error."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            _ = self.client
        except (MlflowException, SQLAlchemyError, OSError) as error:
            log.debug("MLflow: %s", self.reason(error))  # the first number that is sent tells of it

    def ask(self) -> None:
        """Raise what MLflow raises where the store does not answer."""
        self.client.get_experiment_by_name(EXPERIMENT)

    def _never(self, error: Exception) -> UserError:
        return UserError(f"{URI}: {self.shown} cannot be used: {self.reason(error)}; http://host:port names a server")

    def reason(self, error: Exception) -> str:
        """An error of MLflow's in a few words, without what is secret in the URI."""
        first: BaseException = error
        while cause := first.__cause__ or first.__context__:
            first = cause
        told = first if isinstance(first, OSError) else error  # "Connection refused", not what five libraries add
        return without_secrets(" ".join(str(told).split()) or type(told).__name__, self.uri)[:300]

    def experiment(self) -> str:
        """The id of the experiment that all runs belong to, made where it is not there."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        own = None if self.given else (Paths(self._root).state / "mlartifacts").as_uri()
        return self.client.create_experiment(EXPERIMENT, artifact_location=own)

    def open(self, head: Mapping[str, Any]) -> list[str]:
        """The ids of the run that a journal tells of and of its parent: found by their tags, or made.

        A run of the same name and inputs that is not finished is continued: that of a killed stage, which MLflow still
        believes to be running.
        """
        state = Paths(self._root).state
        state.mkdir(parents=True, exist_ok=True)
        with FileLock(state / "tracking.lock"):  # the first two stages of a reproduction must not make two parents
            experiment = self.experiment()
            parent = self._parent(experiment, head["reproduction"], head["time"])
            return [self._child(experiment, parent, head["run"], head["time"]), parent]

    def _parent(self, experiment: str, wanted: Mapping[str, Any], start: int) -> str:
        tags, params = wanted["tags"], wanted["params"]
        for found in self._search(experiment, {key: tags[key] for key in ("hvg.name", "hvg.root", "hvg.params")}):
            if found.data.tags.get("hvg.experiment", "") == tags["hvg.experiment"]:
                if set(params) - set(found.data.params):  # killed before it was told
                    self.log_params(found.info.run_id, params)
                self.client.update_run(found.info.run_id, status="RUNNING")
                return found.info.run_id
        made = self.client.create_run(experiment, start_time=start, tags=tags, run_name=wanted["name"])
        self.log_params(made.info.run_id, params)
        return made.info.run_id

    def _child(self, experiment: str, parent: str, wanted: Mapping[str, Any], start: int) -> str:
        tags = wanted["tags"]
        for found in self._search(experiment, {key: tags[key] for key in ("hvg.name", "hvg.root")}):
            same = all(found.data.tags.get(key, "") == tags[key] for key in ("hvg.inputs", "hvg.experiment"))
            if same and found.info.status != "FINISHED":
                self.client.update_run(found.info.run_id, status="RUNNING")
                self.client.set_tag(found.info.run_id, _PARENT, parent)  # other parameters may have changed meanwhile
                return found.info.run_id
        tags = {**tags, _PARENT: parent}
        return self.client.create_run(experiment, start_time=start, tags=tags, run_name=wanted["name"]).info.run_id

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Parameters of a run; those that it has must be the same."""
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in params.items()]
        for first in range(0, len(entries), AT_ONCE // 10):
            with self._refused("parameters"):
                self.client.log_batch(run_id, params=entries[first : first + AT_ONCE // 10])

    def send(self, journal: Journal) -> list[str]:
        """Tell the store what a journal holds: the ids of its run and of the parent.

        What arrived is struck from the journal. Raises what MLflow raises where the store is away, UserError where it
        can never be used; what it will never accept, and files that cannot be stored, are left out with a warning.
        """
        head, arrived = journal.head, None
        if "ids" not in head:
            head["ids"] = self.open(head)
            journal.rename(head)
        try:
            for entry, place in _grouped(journal.entries()):
                self._tell(head["ids"], entry, journal)
                arrived = place
        finally:
            if arrived is not None:
                journal.arrived(arrived)
        return head["ids"]

    def _tell(self, ids: list[str], entry: Mapping[str, Any], journal: Journal) -> None:
        from mlflow.entities import Metric

        if "metrics" in entry:
            with self._refused("numbers"):
                self.client.log_batch(ids[0], metrics=[Metric(*one) for one in entry["metrics"]])
        elif "params" in entry:
            self.log_params(ids[0], entry["params"])
        elif "file" in entry:
            self._store_file(ids[0], entry, journal)
        else:
            with self._refused("the run's end"):
                self.client.set_terminated(ids[0], entry["status"], entry["time"])
                for parent in ids[1:]:
                    self._end_parent(parent, entry["time"])

    def _end_parent(self, parent: str, time: int) -> None:
        """A reproduction ends with the last of the runs within it, as badly as the worst: of each name the newest."""
        experiment = self.client.get_run(parent).info.experiment_id
        newest: dict[str, str] = {}
        for run in self._search(experiment, {_PARENT: parent}):
            newest.setdefault(run.data.tags.get("hvg.name", run.info.run_id), run.info.status)
        if "RUNNING" not in newest.values():
            worst = next((status for status in ("FAILED", "KILLED") if status in newest.values()), "FINISHED")
            self.client.set_terminated(parent, worst, time)

    def _store_file(self, run_id: str, entry: Mapping[str, Any], journal: Journal) -> None:
        """Files have a store of their own, which may fail while the server answers: numbers do not wait for it."""
        try:
            self.client.log_artifact(run_id, str(journal.file(entry)), entry["folder"])
            return
        except Exception as error:  # noqa: BLE001 - a disk, a bucket, a library that is missing: each has its own
            failed = error
        self.ask()  # after the block: what it raises is not about the file
        if journal.path not in self._no_files:
            self._no_files.add(journal.path)
            log.warning(
                "MLflow at %s takes numbers, but %s cannot be stored and is left out, as further files may be: %s",
                self.shown,
                Path(entry["file"]).name,
                self.reason(failed),
            )

    @contextlib.contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            log.warning("MLflow does not take %s: %s", what, self.reason(error))

    def runs(self, name: str | None = None) -> list[Found]:
        """All runs of the project, or those of a name, oldest first. Empty where there is no store yet."""
        if not self.given and not self.database.is_file():
            return []
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        found = self._search(experiment.experiment_id, {"hvg.name": name} if name else {})
        return sorted(map(_found, found), key=lambda run: (run.start, run.parent is not None))

    def files(self, run_id: str, folder: str = "") -> Iterator[str]:
        """The files that a run keeps, by their paths among its artifacts, sorted."""
        for one in sorted(self.client.list_artifacts(run_id, folder or None), key=lambda one: one.path):
            if one.is_dir:
                yield from self.files(run_id, one.path)
            else:
                yield one.path

    def fetch(self, run_id: str, file: str, into: Path) -> Path:
        """A copy of one of these files, under `into`."""
        into.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, file, str(into)))

    def _search(self, experiment: str, tags: Mapping[str, str]) -> Iterator[Any]:
        """Runs that have all of these tags, newest first."""
        where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        token = None
        while True:
            page = self.client.search_runs([experiment], filter_string=where, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _grouped(entries: Iterator[tuple[dict[str, Any], int]]) -> Iterator[tuple[dict[str, Any], int]]:
    """A journal's entries, with the metrics of neighbours put together up to what a request may hold."""
    group: list[Any] = []
    before = 0
    for entry, place in entries:
        metrics = entry.get("metrics", [])
        if group and (not metrics or len(group) + len(metrics) > AT_ONCE):
            yield {"metrics": group}, before
            group = []
        if metrics:
            group = [*group, *metrics]
        else:
            yield entry, place
        before = place
    if group:
        yield {"metrics": group}, before


def _found(found: Any) -> Found:
    tags = dict(found.data.tags)
    return Found(
        id=found.info.run_id,
        name=tags.get("hvg.name", found.info.run_name),
        parent=tags.get(_PARENT),
        status=found.info.status,
        start=datetime.fromtimestamp(found.info.start_time / 1000, UTC),
        params=dict(found.data.params),
        metrics=dict(found.data.metrics),
        tags={key: value for key, value in tags.items() if key.startswith(("hvg.", "mlflow.source."))},
    )

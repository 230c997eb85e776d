"""MLflow: runs found or made, told of and read. Nothing else of the project knows it."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.paths import Paths, origin
from pipeline.system.urls import without_secrets

log = logging.getLogger(__name__)

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "hvg"
KEY, PARENT = "hvg.run", "mlflow.parentRunId"  # tags: what no other run has; a run's id
# What a server says of a request that it will never accept: a run that somebody has deleted, a parameter that changed.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with name and password
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # What is not said now is said later, by us: a training never waits minutes for a server.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}


class Away(UserError):
    """The tracking server does not answer, or answers that it cannot now."""


class Refused(Away):
    """The tracking server answers that it never will."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as MLflow has it."""

    id: str
    name: str  # train level 2; "reproduction" for a parent
    parent: str | None  # id
    status: str  # RUNNING (or killed without a word), FINISHED, FAILED, KILLED
    start: datetime
    params: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]


class Store:
    """The store at MLFLOW_TRACKING_URI, or mlflow.db in the project's root. Asked nothing before it must be.

    Everything raises Away where it does not answer. Pages and messages may have what is `shown`: no name, no password.
    """

    def __init__(self, paths: Paths) -> None:
        self.root = origin(paths.root).resolve()
        self.database, self.state = self.root / "mlflow.db", Paths(self.root).state
        self.given, self._takes_files = os.environ.get(URI), True
        # ? and % mean something else in a URI and cannot be escaped: a relative path has none of those above it.
        place = os.path.relpath(self.database) if {"?", "%"} & set(str(self.database)) else self.database
        self.uri = self.given or f"sqlite:///{place}"
        self.shown = without_secrets(self.uri, self.uri)

    @cached_property
    def client(self) -> Any:
        """MLflow's client. Raises UserError where MLFLOW_TRACKING_URI is one that can never work."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        for chatty in ("alembic", "mlflow", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow.store.db import utils
        from mlflow.tracking import MlflowClient

        utils.MAX_RETRY_COUNT = 1  # of ten, over 100 s
        try:
            if urlsplit(self.uri).scheme in ("http", "https") and not urlsplit(self.uri).hostname:
                raise ValueError("it names no host")
            _ = urlsplit(self.uri).port  # says where it is no number
            if self.uri.startswith("sqlite"):
                _make_database(self.uri, self.state)
            return MlflowClient(self.uri)
        except Exception as error:
            if isinstance(error, (ImportError, ValueError)) or isinstance(self._error(error), Refused):
                told = f"{self.shown} cannot be used: {self._reason(error)}; http://host:port names a server"
                raise UserError(f"{URI}: {told}") from error
            raise self._error(error) from error

    def ask(self, question: str, *given: Any, **named: Any) -> Any:
        """What a method of MLflow's client returns. Raises Away, or Refused, for whatever it raises."""
        method = getattr(self.client, question)
        try:
            return method(*given, **named)
        except Exception as error:
            raise self._error(error) from error

    def tell(self, *given: Any, **named: Any) -> None:
        """The same, where the log says what is refused."""
        try:
            self.ask(*given, **named)
        except Refused as refused:
            log.warning("%s", refused)

    def _error(self, error: Exception) -> Away:
        refused = getattr(error, "error_code", None) in _REFUSALS
        kind, what = (Refused, "does not take this") if refused else (Away, "does not answer")
        return kind(f"MLflow at {self.shown} {what}: {self._reason(error)}")

    def _reason(self, error: BaseException) -> str:
        """An error of MLflow's in a few words, without what is secret in the URI."""
        first = error
        while cause := first.__cause__ or first.__context__:
            first = cause
        error = first if isinstance(first, OSError) else error  # "Connection refused", not what five libraries add
        return without_secrets(" ".join(str(error).split()) or type(error).__name__, self.uri)[:300]

    @cached_property
    def experiment(self) -> str:
        """The id of the experiment that all runs belong to, made where it is not there."""
        known = self.ask("get_experiment_by_name", EXPERIMENT)
        own = None if self.given else (self.state / "mlartifacts").as_uri()
        return known.experiment_id if known else self.ask("create_experiment", EXPERIMENT, artifact_location=own)

    def run_of(self, start: int, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> Any:
        """The run that has the same key, or a new one that began at `start`, in ms."""
        with FileLock(self.state / "tracking.lock"):  # the first two stages must not make two parents
            run = next(iter(self.search({KEY: tags[KEY]})), None)
            if run is None:
                run = self.ask("create_run", self.experiment, start_time=start, tags=tags, run_name=name)
            elif PARENT in tags:
                self.tell("set_tag", run.info.run_id, PARENT, tags[PARENT])
            if params.keys() - run.data.params.keys():  # also of one that was killed before it was told
                self.log(run.info.run_id, params.items())
        return run

    def log(self, run: str, params: Iterable[tuple[str, str]] = (), metrics: Iterable[tuple[Any, ...]] = ()) -> None:
        """Log parameters, each a key and a value, and numbers: key, value, time in ms, step."""
        from mlflow.entities import Metric, Param

        self.tell("log_batch", run, [Metric(*one) for one in metrics], [Param(*one) for one in params])

    def log_status(self, run: str, parent: str, status: str, time: int) -> None:
        """A run's status; that of its reproduction is the worst of the runs within it, of each name the newest."""

        def tell(one: str, status: str) -> None:
            self.tell(*(("update_run", one, status) if status == "RUNNING" else ("set_terminated", one, status, time)))

        tell(run, status)
        newest = {one.data.tags.get("hvg.name"): one.info.status for one in self.search({PARENT: parent})[::-1]}
        tell(parent, next((one for one in ("RUNNING", "FAILED", "KILLED") if one in newest.values()), "FINISHED"))

    def keep(self, run: str, file: Path, folder: str = "") -> None:
        """Keep a file with a run. Where the store takes numbers and not this the log says so, once."""
        try:
            self.ask("log_artifact", run, str(file), folder or None)
            return
        except Away as away:  # files have a store of their own: a disk, a bucket
            failed = away.__cause__ or away
        self.ask("get_experiment_by_name", EXPERIMENT)  # after the block: what it raises is not about the file
        if self._takes_files:
            told = "MLflow at %s takes numbers, but %s cannot be stored and is left out, as further files may be: %s"
            log.warning(told, self.shown, file.name, self._reason(failed))
        self._takes_files = False

    def runs(self, name: str | None = None) -> list[TrackedRun]:
        """All runs, or those of a name, oldest first; of all checkouts that share a server. Empty before the first."""
        if not self.given and not self.database.exists():
            return []
        runs = self.search({"hvg.name": name} if name else {})
        return sorted(map(_tracked, runs), key=lambda run: (run.start, run.parent is not None))

    def files(self, run: str, folder: str = "") -> Iterator[str]:
        """The files that a run keeps, by their paths among its artifacts, sorted: pictures/iteration-00000100.png."""
        for one in sorted(self.ask("list_artifacts", run, folder or None), key=lambda one: one.path):
            yield from self.files(run, one.path) if one.is_dir else (one.path,)

    def fetch(self, run: str, file: str, into: Path) -> Path:
        """A copy of one of these files, under `into`."""
        into.mkdir(parents=True, exist_ok=True)
        return Path(self.ask("download_artifacts", run, file, str(into)))

    def search(self, tags: Mapping[str, str], *, deleted: bool = False) -> list[Any]:
        """Runs that have all of these tags, newest first; `deleted`: also those that somebody has deleted."""
        from mlflow.entities import ViewType
        from mlflow.store.tracking import SEARCH_MAX_RESULTS_THRESHOLD as MOST  # 50,000

        where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        return self.ask("search_runs", [self.experiment], where, view, MOST)


def machine_numbers() -> Callable[[], dict[str, float]]:
    """What measures processor, memory, disk, network and GPUs as MLflow does: numbers named "system/…"."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id="")  # never started: it collects, it sends nothing

    def measure() -> dict[str, float]:
        for one in monitor.monitors:
            one.clear_metrics()
        monitor.collect_metrics()
        return {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}

    return measure


def _make_database(uri: str, state: Path) -> None:
    """Make the database of an SQLite URI where it is not there yet, under another name first.

    MLflow makes its tables step by step, and can neither go on after a kill half way nor when two processes do it at
    once: no run of that database could ever be read again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    database = Path(make_url(uri).database or ":memory:")
    if str(database).startswith((":memory:", "file:")):
        return
    with FileLock(state / "database.lock"):
        if database.is_file() and database.stat().st_size > 0:  # SQLite opens an empty file as a new database
            return
        new = database.with_name(f"{database.name}-new")
        for left in (new, new.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        new.touch()  # says at once where that cannot be done
        SqlAlchemyStore(f"sqlite:///{new}", "mlruns").engine.dispose()
        new.replace(database)


def _tracked(run: Any) -> TrackedRun:
    tags = dict(run.data.tags)
    return TrackedRun(
        id=run.info.run_id, name=tags.get("hvg.name", run.info.run_name), parent=tags.get(PARENT),
        status=run.info.status, start=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        params=dict(run.data.params), metrics=dict(run.data.metrics),
        tags={key: value for key, value in tags.items() if key.startswith(("hvg.", "mlflow.source."))},
    )  # fmt: skip

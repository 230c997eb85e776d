"""The numbers of every run, in MLflow: one parent run a reproduction, a child a level and one for the evaluation.

Nothing else of the project knows MLflow. Its store is MLFLOW_TRACKING_URI, or mlflow.db in the project's root. Of
several workers rank 0 alone comes here.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.params import Params, fingerprint
from pipeline.paths import Paths, origin

EXPERIMENT = "hvg"
FLUSH_EVERY = 10.0  # seconds: a write of MLflow's costs milliseconds, and as much for hundreds of values as for one
FLUSH_AT = 500  # values; a request may hold 1000
_PARENT = "mlflow.parentRunId"


class Run:
    """One MLflow run, written to in batches."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.id = run_id
        self._client = client
        self._metrics: list[Any] = []
        self._flushed = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of a step. They are written every ten seconds and at the run's end."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._metrics += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if len(self._metrics) >= FLUSH_AT or time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; nested mappings become dotted keys. Those of a resumed run must be the same."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in _flat(values).items()]
        for first in range(0, len(entries), 100):  # MLflow's limit a request
            self._client.log_batch(self.id, params=entries[first : first + 100])

    def keep(self, file: Path, folder: str) -> None:
        """Keep a file with the run, in a folder of its artifacts."""
        self._client.log_artifact(self.id, str(file), folder)

    def flush(self) -> None:
        """Write what is still held back."""
        while self._metrics:
            self._client.log_batch(self.id, metrics=self._metrics[:1000])
            del self._metrics[:1000]
        self._flushed = time.monotonic()


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
        """For JSON."""
        return {**asdict(self), "start": self.start.isoformat()}


@contextlib.contextmanager
def run(params: Params, name: str, *, inputs: str = "", paths: Paths | None = None) -> Iterator[Run]:
    """The child run `name` ("train level 2", "evaluate") of this reproduction, open for the time of the block.

    `inputs` is the hash of what the stage works from. An unfinished run of the same name and inputs is continued: that
    of a killed stage, which MLflow still believes to be running. At the end the run is FINISHED, FAILED after an
    exception, or KILLED after Ctrl-C or SystemExit.
    """
    paths = paths or Paths()
    with _lock(paths):
        client = _client(paths)
        experiment = _experiment(client, paths)
        parent = _parent(client, experiment, params, paths)
        child = _child(client, experiment, parent, name, inputs, paths)
    opened = Run(client, child)
    status = "FAILED"
    try:
        yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            opened.flush()
        finally:
            for run_id in (child, parent):
                client.set_terminated(run_id, status)


def keep(run_id: str, file: Path, paths: Paths | None = None) -> None:
    """Keep a file with a run."""
    _client(paths or Paths()).log_artifact(run_id, str(file))


def find_runs(paths: Paths | None = None, name: str | None = None) -> list[Found]:
    """All runs of the project, or those of a name, oldest first. Empty where there is no store yet."""
    paths = paths or Paths()
    if not _uri_given() and not _database(paths).is_file():
        return []
    client = _client(paths)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = f"tags.`hvg.name` = '{name}'" if name else ""
    return sorted((_found(run) for run in _search(client, experiment.experiment_id, where)), key=lambda run: run.start)


def runs_table(found: list[Found], last: int = 8) -> str:
    """The last reproductions side by side: the parameters that differ, then what each child measured last."""
    parents = [run for run in found if run.parent is None][-last:]
    rows: list[tuple[str, list[str]]] = [
        ("run", [run.id[:8] for run in parents]),
        ("started", [f"{run.start.astimezone():%Y-%m-%d %H:%M}" for run in parents]),
        ("git", [run.tags.get("mlflow.source.git.commit", "")[:8] for run in parents]),
    ]
    for key in dict.fromkeys(key for run in parents for key in run.params):
        values = [run.params.get(key, "") for run in parents]
        if len(set(values)) > 1:
            rows.append((key, values))
    children = [[run for run in found if run.parent == parent.id] for parent in parents]
    for name in dict.fromkeys(run.name for group in children for run in group):
        latest = [next((run for run in reversed(group) if run.name == name), None) for group in children]
        rows.append((name, [run.status if run else "" for run in latest]))
        for key in sorted({key for run in latest if run for key in run.metrics}):
            measured = [f"{run.metrics[key]:.5g}" if run and key in run.metrics else "" for run in latest]
            rows.append((f"  {key}", measured))
    first = max(len(name) for name, _ in rows)
    widths = [max(len(values[column]) for _, values in rows) for column in range(len(parents))]
    return "\n".join(
        f"{name:{first}}  {'  '.join(f'{v:>{w}}' for v, w in zip(values, widths, strict=True))}".rstrip()
        for name, values in rows
    )


def store_uri(paths: Paths | None = None) -> str:
    """Where the runs are: what `mlflow ui --backend-store-uri` takes."""
    return _uri_given() or f"sqlite:///{_database(paths or Paths())}"


def _uri_given() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI")


def _database(paths: Paths) -> Path:
    return origin(paths.root).resolve() / "mlflow.db"


def _lock(paths: Paths) -> FileLock:
    state = Paths(origin(paths.root)).state
    state.mkdir(parents=True, exist_ok=True)
    return FileLock(state / "tracking.lock")


def _client(paths: Paths) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for chatty in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    return MlflowClient(store_uri(paths))


def _experiment(client: Any, paths: Paths) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    own = None if _uri_given() else (Paths(origin(paths.root)).state / "mlartifacts").resolve().as_uri()
    return client.create_experiment(EXPERIMENT, artifact_location=own)


def _parent(client: Any, experiment: str, params: Params, paths: Paths) -> str:
    """This reproduction's run: that of the same checkout, experiment and parameters."""
    tags = {
        "hvg.name": "reproduction",
        "hvg.root": _root(paths),
        "hvg.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "hvg.params": fingerprint(params),
    }
    for found in _search(client, experiment, " and ".join(f"tags.`{key}` = '{v}'" for key, v in tags.items() if v)):
        if found.data.tags.get("hvg.experiment", "") == tags["hvg.experiment"]:
            client.update_run(found.info.run_id, status="RUNNING")
            return found.info.run_id
    made = client.create_run(experiment, tags={**tags, **_git(paths)}, run_name="reproduction")
    Run(client, made.info.run_id).params(asdict(params))
    return made.info.run_id


def _root(paths: Paths) -> str:
    """A name for the checkout that no filter expression trips over."""
    return fingerprint(str(origin(paths.root).resolve()))[:16]


def _child(client: Any, experiment: str, parent: str, name: str, inputs: str, paths: Paths) -> str:
    stage, *rest = name.split()
    level = re.search(r"\d+", " ".join(rest))
    tags = {"hvg.name": name, "hvg.stage": stage, "hvg.inputs": inputs, "hvg.root": _root(paths)}
    for found in _search(client, experiment, " and ".join(f"tags.`{key}` = '{v}'" for key, v in tags.items() if v)):
        if found.info.status != "FINISHED" and found.data.tags.get("hvg.inputs", "") == inputs:
            client.update_run(found.info.run_id, status="RUNNING")
            client.set_tag(found.info.run_id, _PARENT, parent)  # other parameters may have changed meanwhile
            return found.info.run_id
    if level:
        tags["hvg.level"] = level[0]
    tags[_PARENT] = parent
    return client.create_run(experiment, tags={**tags, **_git(paths)}, run_name=name).info.run_id


def _search(client: Any, experiment: str, where: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], filter_string=where, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


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


def _git(paths: Paths) -> dict[str, str]:
    """The commit that runs, and whether files differ from it. Nothing where there is no git or no repository."""
    git = shutil.which("git")
    if git is None:
        return {}
    asked = [
        [git, "-C", str(paths.root), *question]
        for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
    ]
    commit, changes = (subprocess.run(one, capture_output=True, text=True, check=False) for one in asked)
    if commit.returncode:
        return {}
    return {"mlflow.source.git.commit": commit.stdout.strip(), "hvg.edited": str(bool(changes.stdout.strip())).lower()}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat

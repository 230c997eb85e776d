"""The numbers of every run: one parent run a reproduction, a child a level and one for the evaluation.

They go to MLflow, at MLFLOW_TRACKING_URI or in mlflow.db in the project's root, by way of a file under .hvg/tracking:
while the server is away they wait there, and are sent when it answers again, or with the next run. Of several workers
rank 0 alone comes here.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.params import Params, fingerprint
from pipeline.paths import Paths, origin, write_atomic
from pipeline.runs.journal import Journal, abandoned
from pipeline.runs.store import Away, Found, Store
from pipeline.runs.system import system_metrics

__all__ = [
    "Away",
    "Found",
    "Run",
    "fetch",
    "files",
    "find_runs",
    "keep",
    "of_this_checkout",
    "run",
    "send_waiting",
    "store_uri",
]

log = logging.getLogger(__name__)

FLUSH_EVERY = 10.0  # seconds: a write of MLflow's costs milliseconds, and as much for hundreds of values as for one
_KEYS = ("hvg.root", "hvg.experiment")  # tags that tell a checkout's runs from those of others at the same server
MACHINE_EVERY = 10.0  # seconds between two measurements of the machine
LONGEST = 300.0  # seconds between two tries to reach a server that is away


class Run:
    """One run, told of in batches. Nothing here fails because a server does."""

    def __init__(self, store: Store, journal: Journal, folder: Path) -> None:
        self.id: str | None = None  # MLflow's, once its server has answered
        self._store = store
        self._journal = journal
        self._folder = folder
        self._step = 0
        self._wait = FLUSH_EVERY
        self._tried = time.monotonic()
        self._away = False
        self._bad: set[Path] = set()

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of a step. They are sent every ten seconds and at the run's end."""
        self._step = step
        self._note(metrics)
        if time.monotonic() - self._tried > self._wait:
            self.flush()

    def machine(self, metrics: Mapping[str, float]) -> None:
        """Numbers of the machine, from any thread: of the step at hand, sent with its own."""
        self._note(metrics)

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; nested mappings become dotted keys. Those of a resumed run must be the same."""
        self._journal.add({"params": _flat(values)})

    def keep(self, file: Path, folder: str = "") -> None:
        """Keep a file with the run, in a folder of its artifacts."""
        self._journal.add({"folder": folder or None}, file)
        if not self._away:
            self.flush()

    def flush(self) -> None:
        """Send what is held back. Of a server that is away the log tells once, and it is asked ever more rarely."""
        self._tried = time.monotonic()
        try:
            _send_abandoned(self._store, self._folder, self._bad)
            self.id = self._store.send(self._journal)[0]
        except Exception as error:  # noqa: BLE001 - a database, a proxy, an object store: none may end a training
            self._wait = min(2 * self._wait, LONGEST)
            if not self._away:
                self._away = True
                log.warning(
                    "MLflow at %s does not answer: %s; numbers are kept in %s and sent later",
                    self._store.shown,
                    self._store.reason(error),
                    self._journal.path,
                )
            return
        if self._away:
            log.info("MLflow at %s answers again: what was kept is sent", self._store.shown)
        self._away, self._wait = False, FLUSH_EVERY

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._journal.add({"status": status, "time": _now()})
        self.flush()
        self._journal.release()

    def _note(self, metrics: Mapping[str, float]) -> None:
        now = _now()
        self._journal.add({"metrics": [[key, float(value), now, self._step] for key, value in metrics.items()]})


@contextlib.contextmanager
def run(
    params: Params, name: str, *, inputs: str = "", paths: Paths | None = None, machine: bool = False
) -> Iterator[Run]:
    """The child run `name` ("train level 2", "evaluate") of this reproduction, open for the time of the block.

    `inputs` is the hash of what the stage works from. An unfinished run of the same name and inputs is continued: that
    of a killed stage, which MLflow still believes to be running. At the end the run is FINISHED, FAILED after an
    exception, or KILLED after Ctrl-C or SystemExit. `machine`: measure processor, memory and GPUs, too.

    A server that is away ends nothing. Raises UserError where MLFLOW_TRACKING_URI can never work.
    """
    paths = paths or Paths()
    store, folder = Store(paths), _folder(paths)
    store.check()
    head = {"server": store.shown, "time": _now(), **_heads(params, name, inputs, paths)}
    opened = Run(store, Journal.begin(folder, head), folder)
    opened.flush()
    status = "FAILED"
    try:
        with system_metrics(opened.machine, MACHINE_EVERY) if machine else contextlib.nullcontext():
            yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            opened.end(status)
        except OSError as error:  # a full disk: the block's own error matters more
            log.warning("the end of %s is not told: %s", name, error)


def keep(run_id: str, file: Path, paths: Paths | None = None) -> None:
    """Keep a file with a run that is over."""
    paths = paths or Paths()
    store, folder = Store(paths), _folder(paths)
    journal = Journal.begin(folder, {"server": store.shown, "ids": [run_id]})
    Run(store, journal, folder).keep(file)
    journal.release()


def send_waiting(paths: Paths | None = None) -> None:
    """Send what earlier runs of this checkout could not. Raises Away where the store does not answer now."""
    paths = paths or Paths()
    if any(_folder(paths).glob("*.jsonl")):
        store = Store(paths)
        with _answering(store):
            _send_abandoned(store, _folder(paths), set())


def of_this_checkout(found: Found, paths: Paths | None = None) -> bool:
    """Whether a run is this checkout's and, within an experiment of DVC's, that experiment's."""
    return {key: found.tags.get(key, "") for key in _KEYS} == _own(paths or Paths())


def find_runs(paths: Paths | None = None, name: str | None = None) -> list[Found]:
    """All runs that the store has, or those of a name, oldest first. Empty where there is no store yet.

    Checkouts that share a server see each other's.

    Raises Away where the store does not answer.
    """
    store = Store(paths or Paths())
    with _answering(store):
        return store.runs(name)


def files(run_id: str, paths: Paths | None = None) -> list[str]:
    """The files that a run keeps, by their paths among its artifacts, sorted: pictures/iteration-00000100.png.

    Raises Away where the store does not answer.
    """
    store = Store(paths or Paths())
    with _answering(store):
        return list(store.files(run_id))


def fetch(run_id: str, files: Sequence[str], into: Path, paths: Paths | None = None) -> list[Path]:
    """Copies of some of these files, in the folder `into`.

    Raises Away where the store does not answer.
    """
    store = Store(paths or Paths())
    with _answering(store):
        return [store.fetch(run_id, file, into) for file in files]


def store_uri(paths: Paths | None = None) -> str:
    """Where the runs are: what `mlflow ui --backend-store-uri` takes. For pages and messages: no name, no password."""
    return Store(paths or Paths()).shown


@contextlib.contextmanager
def _answering(store: Store) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise Away(f"MLflow at {store.shown} does not answer: {store.reason(error)}") from error


def _send_abandoned(store: Store, folder: Path, bad: set[Path]) -> None:
    """Send what runs that are over have left for this store, oldest first.

    A journal that cannot be sent though the store answers joins the `bad`, which are passed over: it must not keep
    others back. Raises what MLflow raises where the store is away.
    """
    for journal in abandoned(folder):
        failed = None
        try:
            if journal.path not in bad and journal.head["server"] == store.shown:
                store.send(journal)
        except Exception as error:  # noqa: BLE001 - as in `flush`
            failed = error
        finally:
            journal.release()
        if failed is not None:
            store.ask()
            bad.add(journal.path)
            log.warning(
                "MLflow at %s answers, but %s cannot be sent and stays: %s",
                store.shown,
                journal.path,
                store.reason(failed),
            )


def _folder(paths: Paths) -> Path:
    return Paths(origin(paths.root)).state / "tracking"


def _now() -> int:
    return int(time.time() * 1000)


def _heads(params: Params, name: str, inputs: str, paths: Paths) -> dict[str, Any]:
    """By which tags a reproduction and its child are found: the same checkout, experiment and parameters; the same
    stage and inputs."""
    common = {**_own(paths), **_git(paths)}
    stage, *rest = name.split()
    level = re.search(r"\d+", " ".join(rest))
    child = {"hvg.name": name, "hvg.stage": stage, "hvg.inputs": inputs, **({"hvg.level": level[0]} if level else {})}
    parent = {"hvg.name": "reproduction", "hvg.params": fingerprint(params)}
    return {
        "reproduction": {
            "name": common["hvg.experiment"] or "reproduction",
            "tags": {**parent, **common},
            "params": _flat(asdict(params)),
        },
        "run": {"name": name, "tags": {**child, **common}},
    }


def _own(paths: Paths) -> dict[str, str]:
    values = _project(_folder(paths)), os.environ.get("DVC_EXP_NAME", "")
    return dict(zip(_KEYS, values, strict=True))


def _project(folder: Path) -> str:
    """The checkout's random name, made once: pods and nodes may see the same folder under other paths."""
    file = folder / "id"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / "tracking.lock"):  # the first two stages must not make two
            if not file.is_file():
                write_atomic(file, uuid.uuid4().hex)
    return file.read_text().strip()


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


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = str(value)
    return flat

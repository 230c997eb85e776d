"""The numbers of every run: one parent run a reproduction, a child a level and one for the evaluation.

A run is a plain file of JSON lines where it works, in .hvg/work, beside its pictures; whoever answers, it grows:

    {"time": 1735689600000, "step": 50, "metrics": {"loss": 0.5}}    (in ms)

Each start adds a line that says which run it is, each end one with its status. MLflow is told of these lines, and keeps
with a run how many bytes of them it has. Of several workers rank 0 alone comes here.
"""

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.checkout import name_of, revision
from pipeline.params import Params
from pipeline.paths import Paths
from pipeline.runs.store import EXPERIMENT, KEY, PARENT, Away, Store, TrackedRun, machine_numbers
from pipeline.system.values import fingerprint
from pipeline.system.yaml import flat

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0  # a write of MLflow's costs milliseconds, and as much for hundreds of values as for one
LONGEST_SECONDS = 300.0  # between two tries to reach a server that is away
HERE = Paths()
_SENT = "hvg.sent"  # a tag: how many bytes of the file MLflow has


class Run:
    """A run's file, and how far MLflow has it. Nothing but `send` fails because a server does."""

    def __init__(self, store: Store, file: Path, measure: Callable[[], dict[str, float]] = dict) -> None:
        self.id: str | None = None  # MLflow's, once its server has answered
        self.file = file
        self._store, self._measure, self._parent, self._place = store, measure, "", 0
        self._wait, self._tried = FLUSH_SECONDS, 0.0  # seconds; longer while the server is away

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of a step. They are sent every ten seconds and at the run's end."""
        numbers = {**metrics, **self._measure()}
        self.add({"step": step, "metrics": {key: float(value) for key, value in numbers.items()}})
        if time.monotonic() - self._tried > self._wait:
            self.flush()

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; nested mappings become dotted keys. Those of a resumed run must be the same."""
        self.add({"params": {key: str(value) for key, value in flat(values).items()}})

    def keep(self, file: Path, folder: str = "") -> None:
        """A file, which stays where it is, for a folder of the run's artifacts."""
        self.add({"file": os.path.relpath(file, self.file.parent), "folder": folder})
        if self._wait == FLUSH_SECONDS:
            self.flush()

    def add(self, entry: Mapping[str, Any]) -> None:
        """A line of the run's file."""
        line = json.dumps({"time": int(time.time() * 1000), **entry})
        with self.file.open("a") as file:
            file.write(f"\n{line}\n" if "run" in entry else f"{line}\n")  # a kill may have torn the line before a start

    def flush(self) -> None:
        """Send what the server lacks. Of one that is away the log tells once, and it is asked ever more rarely."""
        self._tried, first = time.monotonic(), self.id is None
        try:
            self.send()
            if first:
                send_waiting(self._store)
        except Away as away:
            if self._wait == FLUSH_SECONDS:
                log.warning("%s; numbers are kept in %s and sent later", away, self.file)
            self._wait = min(2 * self._wait, LONGEST_SECONDS)
        else:
            if self._wait > FLUSH_SECONDS:
                log.info("MLflow at %s answers again: what was kept is sent", self._store.shown)
            self._wait = FLUSH_SECONDS

    def send(self) -> None:
        """Tell MLflow what it lacks. Raises Away, and ValueError where the file does not say which run it is.

        To tell a line again changes nothing: MLflow passes over a number of the same key, step, time and value. What it
        never accepts, and files that cannot be stored, are left out with a warning.
        """
        run = self.id or self._open()
        numbers, status, place = [], None, self._place
        for entry, behind in entries(self.file, place):
            place = behind
            if "metrics" in entry:
                numbers += [(key, value, entry["time"], entry["step"]) for key, value in entry["metrics"].items()]
            elif "params" in entry:
                self._store.log(run, entry["params"].items())
            elif "file" in entry:
                self._store.keep(run, self.file.parent / entry["file"], entry["folder"])
            elif "status" in entry:
                status = entry["status"], entry["time"]
        self._store.log(run, metrics=numbers)
        if status:
            self._store.log_status(run, self._parent, *status)
        self._store.tell("set_tag", run, _SENT, str(place))
        self._place = place

    def _open(self) -> str:
        heads = [entry for entry, _ in entries(self.file) if "run" in entry]
        if not heads:
            raise ValueError("it does not say which run it is")
        head, start = heads[-1], heads[0]["time"]  # other parameters may have changed meanwhile
        self._parent = self._store.run_of(start, **head["reproduction"]).info.run_id
        tags = {**head["run"]["tags"], KEY: self.file.stem, PARENT: self._parent}
        run = self._store.run_of(start, **{**head["run"], "tags": tags})
        self.id, self._place = run.info.run_id, int(run.data.tags.get(_SENT, 0))
        return run.info.run_id


@contextlib.contextmanager
def run(
    params: Params, name: str, *, inputs: str = "", paths: Paths = HERE, work: Path | None = None, machine: bool = False
) -> Iterator[Run]:
    """The child run `name` ("train level 2", "evaluate") of this reproduction, open for the time of the block.

    inputs: the hash of what the stage works from. work: its folder in .hvg/work, where it has one. machine: measure it.
    An unfinished run of the same name and inputs is continued: that of a killed stage, which MLflow still believes to
    be running. At the end it is FINISHED, FAILED after an exception, or KILLED after Ctrl-C or SystemExit.

    A server that is away ends nothing. Raises UserError where MLFLOW_TRACKING_URI can never work.
    """
    store = Store(paths)
    with contextlib.suppress(Away):  # which the first flush tells of
        _ = store.client
    work = work or store.state / "work" / f"{name}-{inputs[:16]}".replace(" ", "-")
    work.mkdir(parents=True, exist_ok=True)
    stem = f"run-{fingerprint(store.shown)[:8]}-{fingerprint(_own(paths))[:8]}"
    known = {file: [line["status"] for line, _ in entries(file) if "status" in line] for file in work.glob(f"{stem}-*")}
    new = work / f"{stem}-{uuid.uuid4().hex}.jsonl"
    file = next((file for file, statuses in known.items() if statuses[-1:] != ["FINISHED"]), new)
    opened = Run(store, file, machine_numbers() if machine else dict)
    status = "FAILED"
    try:
        opened.add({"status": "RUNNING", **_head(params, name, inputs, paths)})
        opened.flush()
        yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            opened.add({"status": status})
            opened.flush()
        except OSError as error:  # a full disk: the block's own error matters more
            log.warning("the end of %s is not told: %s", name, error)


def send_waiting(store: Store) -> None:
    """Send what a store lacks of its checkout's runs; one that cannot be sent keeps no other back. May raise Away."""
    files = sorted(store.state.glob(f"work/*/run-{fingerprint(store.shown)[:8]}-*.jsonl"))
    runs = store.search({"hvg.root": name_of(store.root)}, deleted=True) if files else []
    sent = {(run.data.tags.get(KEY), run.data.tags.get(_SENT)) for run in runs}
    deleted = {run.data.tags.get(KEY) for run in runs if run.info.lifecycle_stage == "deleted"}
    for file in files:
        try:
            if file.stem not in deleted and (file.stem, str(file.stat().st_size)) not in sent:
                Run(store, file).send()
        except (OSError, ValueError) as error:
            store.ask("get_experiment_by_name", EXPERIMENT)  # raises where it is the store that is away
            log.warning("%s cannot be sent: %s", file, error)


def of_this_checkout(run: TrackedRun, paths: Paths = HERE) -> bool:
    """Whether a run is this checkout's and, within an experiment of DVC's, that experiment's."""
    return _own(paths).items() <= {"hvg.experiment": "", **run.tags}.items()


def entries(file: Path, place: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines of a run's file from a place on, each with the place after it, in bytes; without what a kill tore."""
    with file.open("rb") as lines:
        lines.seek(place)
        for line in lines:
            place += len(line)
            with contextlib.suppress(ValueError):
                yield json.loads(line), place


def _head(params: Params, name: str, inputs: str, paths: Paths) -> dict[str, Any]:
    """Which run it is, and of which reproduction."""
    own = _own(paths)
    commit, edited = revision(paths.root)
    both = own | ({"mlflow.source.git.commit": commit, "hvg.edited": str(edited).lower()} if commit else {})
    stage, _, level = name.partition(" level ")
    tags = {"hvg.name": name, "hvg.stage": stage, "hvg.inputs": inputs, **({"hvg.level": level} if level else {})}
    parent = {"hvg.name": "reproduction", "hvg.params": fingerprint(params), KEY: fingerprint(params, own)}
    texts = {key: str(value) for key, value in flat(asdict(params)).items()}
    return {
        "run": {"name": name, "tags": tags | both, "params": {}},
        "reproduction": {"name": own["hvg.experiment"] or "reproduction", "tags": parent | both, "params": texts},
    }


def _own(paths: Paths) -> dict[str, str]:
    """Tags that tell a checkout's runs from those of others at the same server."""
    return {"hvg.root": name_of(paths.root), "hvg.experiment": os.environ.get("DVC_EXP_NAME", "")}

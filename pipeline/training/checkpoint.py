"""A run's folder: checkpoints, everything that going on takes, and what it is made from, or why it begins anew.

The folder is named by the hash of what the run is made from, so a checkpoint of other parameters, other data or other
code is never found; but a run that asks for more iterations alone, or logs them otherwise, goes on from another's.
Draws are functions of the step (pipeline.data.sampling): there is no random state to keep.
"""

import contextlib
import io
import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.code_hash import code_hash
from pipeline.errors import UserError
from pipeline.metrics.features import load_state
from pipeline.params import Params
from pipeline.paths import write_atomic
from pipeline.system.yaml import flat
from pipeline.training.batches import Batches
from pipeline.training.measure import WindowMeasure
from pipeline.workers import Workers

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one to fall back to
METRIC = ("models.i3d", "pipeline.metrics")  # decides nothing where training does not measure by it
# Of a level's training, what changes no iteration that was done.
GOES_ON = ("iterations", "log_every", "measure.patience")
_INPUTS = "inputs.json"
_NAMED = 4  # differences from another run that are told


def save(folder: Path, step: int, parts: Mapping[str, Any], extra: dict[str, Any]) -> None:
    """Write the checkpoint after `step` iterations. Older ones than the last two go.

    parts: what has a state_dict, by name. extra: plain values.
    """
    buffer = io.BytesIO()
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": step, "extra": extra, **state}, buffer)
    write_atomic(folder / f"checkpoint-{step:08d}.pt", buffer.getbuffer())
    for old in [*files(folder)[KEPT:], *folder.glob(".checkpoint-*")]:  # the latter: of a write that was killed
        old.unlink()


def load(folder: Path, parts: Mapping[str, Any], workers: Workers) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest checkpoint that can be read: (its step, its extra), or None where there is none.

    Raises UserError on a worker that would go on from another one than rank 0.
    """
    workers.wait()  # rank 0 alone has waited for another process that was at it
    state = _read(files(folder))
    own = 0 if state is None else int(state["step"])
    if own != (first := int(workers.of_first(torch.tensor(own)))):
        raise UserError(
            f"{folder}: worker 0 goes on from iteration {first} and worker {workers.rank} from {own}: "
            f"{folder.parent} must be the same folder for all workers"
        )
    if state is None:
        return None
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return own, state["extra"]


def _read(checkpoints: list[Path]) -> dict[str, Any] | None:
    """The first that can be read."""
    for file in checkpoints:
        try:
            return load_state(file, "checkpoint")
        except UserError as error:
            log.warning("%s is damaged, falling back to the one before: %s", file.name, error)
    return None


def _begun(others: Iterable[tuple[Path, dict[str, Any]]], inputs: Mapping[str, Any]) -> list[Path]:
    """Checkpoints of other runs which one of these inputs can go on from, the newest first: it would not have ended."""
    same = [other for other, before in others if all(_goes_on(key, before, inputs) for key in _keys(before, inputs))]
    most = next(value for key, value in flat(inputs).items() if key.endswith(".iterations"))
    return sorted((file for other in same for file in files(other) if _step(file) <= most), key=_step, reverse=True)


def _goes_on(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if key.endswith("patience"):  # null: without end
        old, new = (flat(inputs).get(key) or math.inf for inputs in (before, now))
        return old <= new
    return key.endswith(GOES_ON)


def _others(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of other runs of the level that have checkpoints, and what those are made from."""
    for file in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*/{_INPUTS}"):
        if file.parent != folder and files(file.parent):
            with contextlib.suppress(OSError, ValueError, TypeError):  # damaged: nothing is known of that run
                yield file.parent, dict(json.loads(file.read_bytes()))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def files(folder: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def inputs_of(batches: Batches, params: Params, measure: WindowMeasure | None) -> dict[str, Any]:
    """Everything that the bytes of a trained level depend on, as plain values by name."""
    level = batches.config.level
    # How often a run is saved and shown makes no difference.
    matters = replace(params.of_level(level).training, checkpoint_every=1, samples_every=None, window=batches.window)
    made_from = {
        "seed": params.seed,
        "factors": batches.factors,
        "mirror": batches.mirror,
        f"levels.{level}": {
            **asdict(batches.config),
            "training": {**asdict(matters), "start": matters.start and matters.start.sha256},  # wherever it lies
        },
        "data": batches.real.digest,
        "conditions of the level below": batches.generated.digest if batches.generated is not None else None,
        "code": code_hash("stages.train", without=() if measure else METRIC),
        "the measuring I3D": measure.weights if measure is not None else None,
    }
    return json.loads(json.dumps(made_from))


def record(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Keep beside a run's checkpoints what it is made from: plain values.

    Where it has no checkpoint yet, it gets those of another run of the level which did the same iterations, if not more
    of them; or, where that was made from something else, the log says what differs: so it is seen why it begins anew.
    """
    write_atomic(folder / _INPUTS, json.dumps(inputs, indent=1) + "\n")
    others = [] if files(folder) else list(_others(folder))
    if begun := _begun(others, inputs) if others else []:
        log.info("going on from %s of %s", begun[0].name, begun[0].parent)
        for file in begun[
            :KEPT
        ]:  # its own from now on: the other may be at work, and every worker has to find the same
            try:
                (folder / file.name).hardlink_to(file)
            except OSError:  # no hard links here, or the other has newer ones meanwhile
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
    elif others:
        newest, before = max(others, key=lambda other: files(other[0])[0].stat().st_mtime)
        differing = "; ".join(_differences(before, inputs)) or "nothing that is kept in its inputs.json"
        iteration = _step(files(newest)[0])
        log.info("%s, trained to iteration %d, is not gone on from: other %s", newest, iteration, differing)


def _keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys of different values."""
    old, new = flat(before), flat(now)
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Some of the differences, for people."""
    old, new, keys = flat(before), flat(now), _keys(before, now)
    for key in keys[:_NAMED]:
        values = old.get(key), new.get(key)
        digests = any(isinstance(value, str) and len(value) == 64 for value in values)
        yield key if digests else f"{key} ({json.dumps(values[0])}, now {json.dumps(values[1])})"
    if len(keys) > _NAMED:
        yield f"{len(keys) - _NAMED} more"

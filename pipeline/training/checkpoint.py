"""Checkpoints of a run: everything that going on takes, written whole or not at all.

A checkpoint lies in a folder named by the hash of what the run is made from, so one of other parameters, other data or
other code is never found. Draws are functions of the step (pipeline.data.sampling): there is no random state to keep.
"""

import io
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.paths import write_atomic
from pipeline.workers import Workers

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one to fall back to
_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError)


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
    state = _newest(folder)
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


def _newest(folder: Path) -> dict[str, Any] | None:
    for file in files(folder):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("%s is damaged, falling back to the one before: %s", file.name, reason)
    return None


def files(folder: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)

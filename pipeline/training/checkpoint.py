"""Checkpoints of a run: everything that going on takes, written whole or not at all.

A checkpoint lies in a folder named by the hash of what the run is made from, so one of other parameters, other data or
other code is never found. Draws are functions of the step (pipeline.sampling): there is no random state to keep.
"""

import hashlib
import io
import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from pipeline.paths import write_atomic
from pipeline.training.step import Networks

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one to fall back to
_PARTS = ("generator", "discriminators", "optimizer_g", "optimizer_d")
_ROOT = Path(__file__).parents[2]
_CODE = ("models/*.py", "pipeline/training/*.py", "pipeline/sampling.py", "pipeline/data/windows.py")


def code_hash() -> str:
    """A hash of the code that decides what a run computes; models/i3d.py is the metrics'."""
    digest = hashlib.sha256()
    files = {path for pattern in _CODE for path in _ROOT.glob(pattern)} - {_ROOT / "models" / "i3d.py"}
    for file in sorted(files):
        digest.update(file.relative_to(_ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def save(folder: Path, step: int, networks: Networks, extra: dict[str, Any]) -> None:
    """Write the checkpoint after `step` iterations; `extra` holds plain values. Older ones than the last two go."""
    buffer = io.BytesIO()
    state = {part: getattr(networks, part).state_dict() for part in _PARTS}
    torch.save({"step": step, "extra": extra, **state}, buffer)
    write_atomic(folder / f"checkpoint-{step:08d}.pt", buffer.getbuffer())
    for old in [*_files(folder)[KEPT:], *folder.glob(".checkpoint-*")]:  # the latter: of a write that was killed
        old.unlink()


def load(folder: Path, networks: Networks) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest checkpoint that can be read: (its step, its extra), or None where there is none."""
    for file in _files(folder):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            log.warning(
                "%s is damaged, falling back to the one before: %s", file.name, " ".join(str(error).split())[:200]
            )
            continue
        for part in _PARTS:
            getattr(networks, part).load_state_dict(state[part])
        return state["step"], state["extra"]
    return None


def _files(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)

"""What was measured of a set, kept: an evaluation by other numbers goes over no clip again."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.code_hash import code_hash
from pipeline.metrics.measured import OF_FEATURES, OF_FRAMES, Measured
from pipeline.paths import write_atomic
from pipeline.system.values import digest_of
from pipeline.workers import Workers

log = logging.getLogger(__name__)


def kept(folder: Path, key: dict[str, Any], workers: Workers, measure: Callable[[], Measured]) -> Measured:
    """What lies in `folder` under `key`, if every worker has it undamaged; else what `measure` gives, put there.

    key: what is measured, on what. The code and torch's version belong to it.
    """
    identity = json.dumps([key, code_hash("pipeline.metrics.evaluation"), torch.__version__], sort_keys=True)
    file = folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
    found = None
    if file.is_file():
        try:
            found, _ = read_measured(file)
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is damaged and measured again: %s", file, str(error).splitlines()[0])
    if not workers.any(found is None):
        assert found is not None
        log.info("clips as measured before: %s", file)
        return found
    measured = measure()
    if workers.rank == 0:
        write_measured(file, measured, {})
    return measured


def write_measured(file: Path, measured: Measured, facts: Mapping[str, str]) -> None:
    """What was measured of clips as safetensors, with what is to be known of them."""
    plain = {name: tensor.contiguous() for name, tensor in vars(measured).items()}
    write_atomic(file, save(plain, {**facts, "sha256": digest_of(plain, facts)}))


def read_measured(file: Path) -> tuple[Measured, dict[str, str]]:
    """What `write_measured` wrote. OSError, SafetensorError or ValueError where it is damaged, or something else."""
    with safe_open(file, "pt") as opened:
        facts, names = opened.metadata() or {}, opened.keys()
        tensors = {name: opened.get_tensor(name) for name in names}
    if facts.pop("sha256", None) != digest_of(tensors, facts):
        raise ValueError("has another checksum than it says, or none")
    kinds = get_type_hints(Measured)
    if tensors.keys() != kinds.keys() or not all(isinstance(tensors[name], kind) for name, kind in kinds.items()):
        raise ValueError("holds other tensors than what is measured of clips")
    of_features, of_frames = ({len(tensors[name]) for name in names} for names in (OF_FEATURES, OF_FRAMES))
    alike = len(of_features) == len(of_frames) == 1 and max(of_features) <= max(of_frames)
    if not alike or not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("holds no finite numbers of one set of clips")
    return Measured(**tensors), facts

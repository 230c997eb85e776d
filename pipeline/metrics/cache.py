"""What was measured of a set, kept: an evaluation by other numbers goes over no clip again."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.code_hash import code_hash
from pipeline.metrics.measured import Measured
from pipeline.paths import write_atomic
from pipeline.workers import Workers

log = logging.getLogger(__name__)


def kept(folder: Path, key: dict[str, Any], workers: Workers, measure: Callable[[], Measured]) -> Measured:
    """What lies in `folder` under `key`, if every worker has it undamaged; else what `measure` gives, put there.

    key: what is measured, on what. The code and torch's version belong to it.
    """
    identity = json.dumps([key, code_hash("pipeline.metrics.evaluation"), torch.__version__], sort_keys=True)
    file = folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
    tensors: dict[str, Tensor] = {}
    if file.is_file():
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged and measured again: %s", file, str(error).splitlines()[0])
    if not workers.any(not tensors):
        log.info("clips as measured before: %s", file)
        return Measured(**tensors)
    measured = measure()
    if workers.rank == 0:
        write_atomic(file, save({name: tensor.contiguous() for name, tensor in vars(measured).items()}))
    return measured

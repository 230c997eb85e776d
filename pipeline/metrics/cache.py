"""Statistics of a real set, kept: they are the same for every set that is compared with it."""

import hashlib
import json
import logging
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


class StatisticsCache:
    """A folder of statistics, each in a file named by a hash of all that it depends on."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self._folder, self._workers = folder, workers

    def file(self, key: dict[str, Any]) -> Path:
        """Where the statistics of `key` lie: what was measured, on what. The code and torch's version belong to it."""
        identity = json.dumps([key, code_hash("pipeline.metrics.evaluation"), torch.__version__], sort_keys=True)
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"

    def load(self, key: dict[str, Any], into: Measured) -> bool:
        """Read statistics into an empty `into`, if every worker has them undamaged; False where not."""
        file = self.file(key)
        statistics: dict[str, Tensor] = {}
        if file.is_file():
            try:
                statistics = load_file(file)
            except (OSError, SafetensorError) as error:
                log.warning("%s is damaged and measured again: %s", file, str(error).splitlines()[0])
        shapes, wanted = ({name: tensor.shape for name, tensor in of.items()} for of in (statistics, into.state_dict()))
        if self._workers.any(shapes != wanted):
            return False
        into.load_state_dict(statistics)
        log.info("statistics of real clips as measured before: %s", file)
        return True

    def save(self, key: dict[str, Any], measured: Measured) -> None:
        """Keep statistics: whole, or not at all."""
        tensors = {name: tensor.contiguous() for name, tensor in measured.state_dict().items()}
        write_atomic(self.file(key), save(tensors, {"key": json.dumps(key)}))

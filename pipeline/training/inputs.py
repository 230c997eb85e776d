"""What a level's training is made from: the name of its work folder, and why a run begins anew."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.code_hash import code_hash
from pipeline.params import Params
from pipeline.paths import write_atomic
from pipeline.system.yaml import flat
from pipeline.training import checkpoint
from pipeline.training.batches import Batches
from pipeline.training.early_stopping import WindowDistance

log = logging.getLogger(__name__)

METRIC = ("models.i3d", "pipeline.metrics")  # decides nothing where early stopping does not measure by it
_INPUTS = "inputs.json"
_NAMED = 4  # differences from another run that are told


def inputs_of(batches: Batches, params: Params, distance: WindowDistance | None) -> dict[str, Any]:
    """Everything that the bytes of a trained level depend on, as plain values by name."""
    level = batches.config.level
    # How often a run is saved and shown makes no difference.
    matters = replace(params.of_level(level).training, checkpoint_every=1, samples_every=None, window=batches.window)
    made_from = {
        "seed": params.seed,
        "factors": batches.factors,
        f"levels.{level}": {**asdict(batches.config), "training": asdict(matters)},
        "data": batches.real.digest,
        "samples of the level below": batches.generated.digest if batches.generated is not None else None,
        "code": code_hash("stages.train", without=() if distance else METRIC),
        "the measuring I3D": distance.weights if distance is not None else None,
    }
    return json.loads(json.dumps(made_from))


def record(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Keep beside a run's checkpoints what it is made from: plain values.

    Where it has no checkpoint yet, and the last run of this level was made from something else, the log says what
    differs: so it is seen why a run begins anew.
    """
    if not checkpoint.files(folder):
        level = folder.name.rpartition("-")[0]
        checkpoints = folder.parent.glob(f"{level}-*/checkpoint-*.pt")
        newest = max(checkpoints, key=lambda file: file.stat().st_mtime, default=None)
        if newest is not None and (newest.parent / _INPUTS).is_file():
            before = json.loads((newest.parent / _INPUTS).read_text())
            differing = "; ".join(_differences(before, inputs)) or "nothing that is kept in its inputs.json"
            iteration = int(newest.stem.rpartition("-")[2])
            log.info("%s, trained to iteration %d, is not gone on from: other %s", newest.parent, iteration, differing)
    write_atomic(folder / _INPUTS, json.dumps(inputs, indent=1) + "\n")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in keys[:_NAMED]:
        values = old.get(key), new.get(key)
        digests = any(isinstance(value, str) and len(value) == 64 for value in values)
        yield key if digests else f"{key} ({json.dumps(values[0])}, now {json.dumps(values[1])})"
    if len(keys) > _NAMED:
        yield f"{len(keys) - _NAMED} more"

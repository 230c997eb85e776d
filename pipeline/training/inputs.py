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
    config, level = batches.config, batches.config.level
    # How often a run is saved and shown makes no difference.
    matters = replace(params.of_level(level).training, checkpoint_every=1, samples_every=None)
    made_from = {
        "seed": params.seed,
        "view": asdict(config.view),
        "condition": asdict(config.condition) if config.condition else None,
        "classes": config.classes,
        "factors": list(batches.factors),
        f"levels.{level}.generator": asdict(config.generator),
        f"levels.{level}.discriminators": asdict(config.discriminators),
        f"levels.{level}.training": {**asdict(matters), "window": batches.window},
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
        stem = folder.name.rpartition("-")[0]
        others = [other for other in folder.parent.glob(f"{stem}-*") if other != folder and checkpoint.files(other)]
        newest = max(others, key=lambda other: checkpoint.files(other)[0].stat().st_mtime, default=None)
        if newest is not None and (newest / _INPUTS).is_file():
            before = json.loads((newest / _INPUTS).read_text())
            differing = "; ".join(_differences(before, inputs)) or "nothing that is kept in its inputs.json"
            log.info(
                "%s, trained to iteration %d, is not gone on from: other %s",
                newest,
                int(checkpoint.files(newest)[0].stem.rpartition("-")[2]),
                differing,
            )
    write_atomic(folder / _INPUTS, json.dumps(inputs, indent=1) + "\n")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in keys[:_NAMED]:
        digests = any(isinstance(values.get(key), str) and len(values[key]) == 64 for values in (old, new))
        yield key if digests else f"{key} ({json.dumps(old.get(key))}, now {json.dumps(new.get(key))})"
    if len(keys) > _NAMED:
        yield f"{len(keys) - _NAMED} more"

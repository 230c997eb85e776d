"""What was measured of REAL, in a file, for other sets, machines and people: `hvg metrics --save-statistics`."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from pipeline.code_hash import code_hash
from pipeline.errors import UserError, reading
from pipeline.metrics.cache import read_measured, write_measured
from pipeline.metrics.measured import FeatureNetworks, Measured
from pipeline.system.values import LARGEST, MOST, Positive, Text, fingerprint

log = logging.getLogger(__name__)
SUFFIX = ".safetensors"
Fps = Annotated[float, Field(ge=0, le=MOST)]  # as it comes out, whatever may be asked for
WAY_OUT = "save it anew by `hvg metrics REAL GENERATED --save-statistics FILE`"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a protocol says of a side and of its clips."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    what: Text
    digest: Text
    frames: Annotated[int, Field(gt=0, le=LARGEST["frames"])]
    size: Annotated[int, Field(gt=0, le=LARGEST["size"])]
    scaling: Text
    frame_step: Positive | None
    fps: Fps | tuple[Fps, Fps] | None
    start: Text
    clips_per_video: Positive


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What was measured of a real set."""

    path: Path
    measured: Measured
    facts: Facts


def save_statistics(path: Path, networks: FeatureNetworks, real: Statistics) -> None:
    """Write what was measured of a real set, and by what: 6 kB a clip."""
    facts = {"facts": json.dumps(asdict(real.facts)), "code": _code(), **_weights(networks)}
    write_measured(path, real.measured, facts)


def read_statistics(path: Path, networks: FeatureNetworks) -> Statistics:
    """What `save_statistics` wrote. Warns where other code did.

    Raises UserError where the file is damaged or another, and where other networks measured than are to measure now.
    """
    with reading(path, WAY_OUT):
        measured, said = read_measured(path)
        facts = TypeAdapter(Facts).validate_json(said["facts"])
        code, weights = said["code"], {name: said[name] for name in _weights(networks)}
    for name, now in _weights(networks).items():
        if weights[name] != now:
            raise UserError(
                f"{path}: measured by the {name} I3D {weights[name][:16]!r}, not by {now[:16]!r}: give the "
                "--i3d-k400 and --i3d-k600 that it was saved with, or measure REAL again"
            )
    if code != _code():
        log.warning("%s was saved by another version of this code, which may measure otherwise", path)
    return Statistics(path=path, measured=measured, facts=facts)


def _weights(networks: FeatureNetworks) -> dict[str, str]:
    """Their SHA-256, or "random, seed 0", or "none"."""
    return {name: (one.sha256 or one.weights) if one else "none" for name, one in vars(networks).items()}


def _code() -> str:
    """Of what reads clips, and what makes features of them."""
    modules = ("pipeline.metrics.clip_sets", "pipeline.metrics.features")
    return fingerprint(*(code_hash(module, without=("pipeline.metrics.weights",)) for module in modules))

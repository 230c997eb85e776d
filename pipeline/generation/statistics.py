"""A level's batch-norm statistics for a sigma and a length: recalibrated by who uses them, kept beside their store."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save

from models.generator import Generator
from models.unroll import Statistics, use_statistics
from pipeline.errors import UserError, reading
from pipeline.paths import write_atomic
from pipeline.system.values import digest_of

FILE = "statistics.safetensors"
_WAY_OUT = "`dvc repro` makes that store again"


def write_statistics(store: Path, statistics: Statistics, *, sigma: float, frames: int, digest: str) -> None:
    """Keep statistics for noise of deviation `sigma` and videos of so many frames; `digest`: of the level's file."""
    plain = {name: t.detach().cpu().contiguous() for name, t in statistics.items()}
    about = _about(sigma, frames, digest)
    # One entry: several would come in any order.
    write_atomic(store / FILE, save(plain, {"about": json.dumps({**about, "sha256": digest_of(plain, about)})}))


def read_statistics(store: Path, generator: Generator, *, sigma: float, frames: int, digest: str) -> Generator:
    """Give a generator the statistics that lie beside a store, and put it into evaluation mode.

    Raises UserError where there are none, and where they are damaged or of another level, sigma or length.
    """
    file = store / FILE
    with reading(file, _WAY_OUT):
        with safe_open(file, framework="pt") as opened:
            said = json.loads(opened.metadata()["about"])
            statistics = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
        if said.pop("sha256") != digest_of(statistics, said):
            raise ValueError("it has another checksum than it says")
        if said != _about(sigma, frames, digest):
            raise UserError(f"{file}: recalibrated for another level, sigma or length: {said}; {_WAY_OUT}")
        use_statistics(generator, statistics)
    return generator.eval()


def _about(sigma: float, frames: int, digest: str) -> dict[str, Any]:
    return {"sigma": sigma, "frames": frames, "generator": digest}

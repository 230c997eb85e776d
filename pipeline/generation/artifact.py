"""What a trained level publishes: generator.safetensors, config.json, history.csv, and discriminators.safetensors.

The last is D as it was after the last iteration, whole and by its own names: no sample takes it, but training that
begins from the level does, where a new D would unteach G (pipeline.training.start).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import load, save

from models.config import LevelConfig
from models.discriminator import Discriminators
from models.generator import Generator
from models.unroll import Statistics, use_statistics
from pipeline.errors import UserError, reading
from pipeline.paths import write_atomic
from pipeline.system.yaml import explain, shortened

CONFIG_BYTES = 2**20  # of a config.json at most
_WAY_OUT = "train the level first, or again, by `dvc repro`"


@dataclass(frozen=True, kw_only=True)
class _Calibrated:
    """For which sigma statistics are, by split."""

    sigma: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What a config.json must say; more may stand in it."""

    __pydantic_config__ = ConfigDict(strict=True)

    config: LevelConfig
    statistics: _Calibrated
    sha256: str | None = None  # of generator.safetensors; not of an earlier version's


def write(
    folder: Path,
    generator: Generator,
    discriminators: Discriminators,
    statistics: dict[str, tuple[float, Statistics]],
    history: list[dict[str, float | int]],
    about: dict[str, Any],
) -> None:
    """Write a level's files.

    statistics: by split of the samples, the sigma of its noise and the statistics recalibrated for it, at the view's
        length.
    history: a row every few iterations.
    about: what the level was trained from.
    """
    tensors = {f"generator.{name}": t for name, t in generator.state_dict().items()}
    for split, (_, values) in statistics.items():
        tensors |= {f"statistics.{split}.{name}": t for name, t in values.items()}
    for name, held in (("generator", tensors), ("discriminators", discriminators.state_dict())):
        plain = {key: t.detach().cpu().contiguous() for key, t in held.items()}
        write_atomic(folder / f"{name}.safetensors", save(plain))
    sigmas = {split: sigma for split, (sigma, _) in statistics.items()}
    length = generator.config.view.frames
    config = {"config": asdict(generator.config), "statistics": {"frames": length, "sigma": sigmas}, **about}
    config["sha256"] = digest(folder)
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))


def read(folder: Path, split: str, sigma: float, made: LevelConfig) -> Generator:
    """A level's generator, ready to generate a split of its samples with noise of deviation `sigma`.

    made: the level as params.yaml has it, whose place and views must be the file's; its networks need not.

    Raises UserError where the level is not trained, where its files do not belong together, where it is another level,
    and where its statistics are for another sigma.
    """
    with reading(folder / "config.json", _WAY_OUT), (folder / "config.json").open("rb") as file:
        text = file.read(CONFIG_BYTES)  # no whole JSON where there is more
    try:
        stored = TypeAdapter(_Config).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        where = ": ".join(part for part in (f"{folder}/config.json", key) if part)
        raise UserError(f"{where}: {explain(first)}; train the level again") from error
    with reading(folder / "generator.safetensors", _WAY_OUT):
        content = (folder / "generator.safetensors").read_bytes()
        if stored.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("it has another checksum than config.json says")
        tensors = load(content)
    calibrated, config = stored.statistics.sigma.get(split), stored.config
    if calibrated != sigma:
        raise UserError(f"{folder}: recalibrated for sigma {calibrated}, not {sigma}: train the level again")
    if (config.level, config.view, config.condition) != (made.level, made.view, made.condition):
        raise UserError(
            f"{folder}/config.json: is of another level, or of other views than params.yaml's: train the level again"
        )
    weights = under("generator.", tensors)
    try:
        if config.first_size < 1 or min(config.generator.multipliers, default=0) < 1:
            raise ValueError("its units do not make its view")
        with torch.device("meta"):  # no memory before it is known that the file holds as much
            shapes = {name: t.shape for name, t in Generator(config).state_dict().items()}
        if shapes != {name: t.shape for name, t in weights.items()}:
            raise ValueError("its networks are others")
        generator = Generator(config)
        generator.load_state_dict(weights)
        statistics = under(f"statistics.{split}.", tensors)
        lengths = {view.frames for view in (config.view, config.condition) if view is not None}
        if not all(values.isfinite().all() and len(values) in lengths for values in statistics.values()):
            raise ValueError("its statistics are no numbers, or not of its view's frames")
        use_statistics(generator, statistics)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: generator.safetensors does not fit config.json: {shortened(str(error))}") from error
    return generator.eval()


def under(prefix: str, tensors: Statistics) -> Statistics:
    """The tensors whose names begin so, without that."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def digest(folder: Path) -> str:
    """The SHA-256 of a level's generator file: what was generated from it depends on nothing else of the level."""
    return hashlib.sha256((folder / "generator.safetensors").read_bytes()).hexdigest()

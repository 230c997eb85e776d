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
from pipeline.errors import UserError, reading
from pipeline.paths import write_atomic
from pipeline.system.yaml import explain, shortened

FORMAT = 2  # of a published level; 1 had statistics in it
CONFIG_BYTES = 2**20  # of a config.json at most
CHECKSUMS = {"generator": "sha256", "discriminators": "sha256_discriminators"}  # a file's, in config.json
_WAY_OUT = "train the level first, or again, by `dvc repro`"


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What a config.json must say; more may stand in it."""

    __pydantic_config__ = ConfigDict(strict=True)

    format: int = 1
    config: LevelConfig
    sha256: str | None = None  # of generator.safetensors


def write(
    folder: Path,
    generator: Generator,
    discriminators: Discriminators,
    history: list[dict[str, float | int]],
    about: dict[str, Any],
) -> None:
    """Write a level's files.

    history: a row every few iterations.
    about: what the level was trained from.
    """
    for name, network in (("generator", generator), ("discriminators", discriminators)):
        plain = {key: t.detach().cpu().contiguous() for key, t in network.state_dict().items()}
        write_atomic(folder / f"{name}.safetensors", save(plain))
    config = {"format": FORMAT, "config": asdict(generator.config), **about}
    config |= {key: digest(folder, name) for name, key in CHECKSUMS.items()}
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))


def read(folder: Path, made: LevelConfig) -> Generator:
    """A level's generator, without statistics (pipeline.generation.statistics).

    made: the level as params.yaml has it, whose place and views must be the file's; its networks need not.

    Raises UserError where the level is not trained, where its files do not belong together or are of another format,
    and where it is another level.
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
    if stored.format != FORMAT:
        raise UserError(
            f"{folder}/config.json: of format {stored.format}, and this code reads {FORMAT}: train the level again"
        )
    with reading(folder / "generator.safetensors", _WAY_OUT):
        content = (folder / "generator.safetensors").read_bytes()
        if stored.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("it has another checksum than config.json says")
        weights = load(content)
    config = stored.config
    if (config.level, config.view, config.condition) != (made.level, made.view, made.condition):
        raise UserError(
            f"{folder}/config.json: is of another level, or of other views than params.yaml's: train the level again"
        )
    try:
        if config.first_size < 1 or min(config.generator.multipliers, default=0) < 1:
            raise ValueError("its units do not make its view")
        with torch.device("meta"):  # no memory before it is known that the file holds as much
            shapes = {name: t.shape for name, t in Generator(config).state_dict().items()}
        if shapes != {name: t.shape for name, t in weights.items()}:
            raise ValueError("its networks are others")
        generator = Generator(config)
        generator.load_state_dict(weights)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: generator.safetensors does not fit config.json: {shortened(str(error))}") from error
    return generator


def digest(folder: Path, network: str = "generator") -> str:
    """The SHA-256 of a level's file. What was generated from the level depends on nothing but that of its generator."""
    return hashlib.sha256((folder / f"{network}.safetensors").read_bytes()).hexdigest()

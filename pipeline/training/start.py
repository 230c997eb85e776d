"""What a level begins from where `training.start` is set: the networks of a published level or of a checkpoint.

Of a published level G is what it publishes (the average of its weights, or the best by early stopping, where it has
those) and D that of its last iteration, or a new one where the level has none. Of a checkpoint both are as trained.
Optimizers, the average and the count of iterations begin anew.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from models.config import LevelConfig
from models.discriminator import Discriminators
from models.generator import Generator
from pipeline.errors import UserError
from pipeline.generation.artifact import CHECKSUMS, CONFIG_BYTES, FORMAT, digest
from pipeline.metrics.features import first_wrong, load_state
from pipeline.params import Start
from pipeline.paths import Paths, lies_in, origin, publish
from pipeline.system.values import Hash, Natural
from pipeline.system.yaml import shortened

CONFIG, D, G = _PUBLISHED = ("config.json", "discriminators.safetensors", "generator.safetensors")  # as they are hashed


@dataclass(frozen=True, kw_only=True)
class Ancestry:
    """What a level began from, for config.json: all of it follows from the bytes that the hash is of."""

    sha256: Hash
    iterations: Natural  # that it was trained
    start: "Ancestry | None" = None  # what it began from itself


_ancestry = TypeAdapter(Ancestry)
States = dict[str, dict[str, torch.Tensor]]  # of "generator" and, where there is one, "discriminators"


def read(start: Start, config: LevelConfig) -> tuple[States, Ancestry]:
    """The networks that a level begins from, on the CPU, and where they come from.

    Raises UserError where the file is not the one of the hash or is damaged, and where a network is not the level's,
    by its first wrong tensor; nothing is unpickled but tensors, and nothing built before that.
    """
    key = f"levels.{config.level}.training.start"
    path = origin(Path()) / Path(start.path).expanduser()
    if (found := _digest(path, key)) != start.sha256:
        raise UserError(
            f"{key}: {path} is another than when it was chosen, of SHA-256 {found}; bring that one back, or take this "
            f"one by `hvg run train --level {config.level} --from {path}`"
        )
    try:
        if path.is_dir():
            networks = {"generator": load_state(path / G, key)}
            if (path / D).is_file():
                networks["discriminators"] = load_state(path / D, key)
            about: dict[str, Any] = json.loads((path / CONFIG).read_bytes())
            if (found := about.get("format", 1)) != FORMAT:
                raise ValueError(f"{CONFIG} is of format {found}, and this code reads {FORMAT}")
        else:
            if not isinstance(state := load_state(path, key), dict):
                raise TypeError(f"it holds a {type(state).__name__}, no mapping")
            networks = {name: state[name] for name in ("generator", "discriminators")}
            about = {"iterations": state["step"], "start": state["extra"].get("start")}
        ancestry = _ancestry.validate_python({**about, "sha256": start.sha256})
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{key}: {path}: no checkpoint of a level: {shortened(str(error))}") from error
    with torch.device("meta"):
        expected = {"generator": Generator(config), "discriminators": Discriminators(config)}
    for name, state in networks.items():
        if wrong := first_wrong(expected[name], state):
            raise UserError(f"{key}: {path} does not fit level {config.level}: its {name}: {wrong}")
        if path.is_dir() and about.get(CHECKSUMS[name]) not in (None, digest(path, name)):
            raise UserError(f"{key}: {path}: its {name}: another checksum than {CONFIG} says")
    return networks, ancestry


def choose(path: Path, config: LevelConfig, paths: Paths) -> Start:
    """The parameter that has a level begin from `path`: looked at, and kept where training does not replace it.

    Raises UserError as `read` does.
    """
    sha256 = _digest(path, "--from")
    read(Start(path=str(path.resolve()), sha256=sha256), config)
    if lies_in(path, paths.replaced):
        kept = paths.state / "starts" / sha256[:16]
        unfinished = kept.with_name(f".{kept.name}")
        try:
            (unfinished if path.is_dir() else unfinished.parent).mkdir(parents=True, exist_ok=True)
            for file in _files(path):
                shutil.copy(file, unfinished)
            publish(unfinished, kept)
        except OSError as error:
            raise UserError(f"--from: {path} cannot be copied to {kept}: {error}") from error
        path = kept
    return Start(path=str(path), sha256=sha256)


def _files(path: Path) -> list[Path]:
    return [path / name for name in _PUBLISHED if (path / name).is_file()] if path.is_dir() else [path]


def _digest(path: Path, key: str) -> str:
    """The SHA-256 of a checkpoint, or of a published level's files one after another."""
    digest = hashlib.sha256()
    try:
        known = path.is_file() or ((path / G).is_file() and (path / CONFIG).stat().st_size <= CONFIG_BYTES)
        for file in _files(path) if known else ():
            with file.open("rb") as opened:
                hashlib.file_digest(opened, lambda: digest)
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read: {error}") from error
    if not known:
        raise UserError(f"{key}: {path}: neither a checkpoint nor the folder of a published level")
    return digest.hexdigest()

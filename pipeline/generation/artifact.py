"""What a trained level publishes: generator.safetensors, config.json and history.csv."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from models.config import LevelConfig
from models.generator import Generator
from models.unroll import Statistics, use_statistics
from pipeline.errors import UserError
from pipeline.paths import write_atomic


def write(
    folder: Path,
    generator: Generator,
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
    tensors = {f"generator.{name}": t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
    for split, (_, values) in statistics.items():
        tensors |= {f"statistics.{split}.{name}": t.cpu().contiguous() for name, t in values.items()}
    write_atomic(folder / "generator.safetensors", save(tensors))
    sigmas = {split: sigma for split, (sigma, _) in statistics.items()}
    length = generator.config.view.frames
    config = {"config": asdict(generator.config), "statistics": {"frames": length, "sigma": sigmas}, **about}
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))


def read(folder: Path, split: str, sigma: float) -> Generator:
    """A level's generator, ready to generate a split of its samples with noise of deviation `sigma`.

    Raises UserError where the level is not trained, where its files do not belong together, or where its statistics
    are for another sigma.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "generator.safetensors")
    except (FileNotFoundError, json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: no trained level here ({error}); train it first, by `dvc repro`") from error
    calibrated = config["statistics"]["sigma"].get(split)
    if calibrated != sigma:
        raise UserError(f"{folder}: recalibrated for sigma {calibrated}, not {sigma}: train the level again")
    generator = Generator(TypeAdapter(LevelConfig).validate_python(config["config"]))
    try:
        generator.load_state_dict(_under("generator.", tensors))
        use_statistics(generator, _under(f"statistics.{split}.", tensors))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{folder}: generator.safetensors does not fit config.json: {error}") from error
    return generator.eval()


def _under(prefix: str, tensors: Statistics) -> Statistics:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def digest(folder: Path) -> str:
    """The SHA-256 of a level's generator file: what was generated from it depends on nothing else of the level."""
    return hashlib.sha256((folder / "generator.safetensors").read_bytes()).hexdigest()

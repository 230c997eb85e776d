"""params.yaml, parsed once and checked whole: unknown keys and impossible combinations are refused by key."""

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params.checks import impossible
from pipeline.params.sections import (
    ConditionParams,
    DataParams,
    DecodeParams,
    EvaluationParams,
    GenerationParams,
    LevelParams,
    Measure,
    Params,
    SampleParams,
    ShapesParams,
    SigmaParams,
    Start,
    TrainingParams,
)
from pipeline.system.yaml import read_yaml, validated

__all__ = [
    "ConditionParams",
    "DataParams",
    "DecodeParams",
    "EvaluationParams",
    "GenerationParams",
    "LevelParams",
    "Measure",
    "Params",
    "SampleParams",
    "ShapesParams",
    "SigmaParams",
    "Start",
    "TrainingParams",
    "load_params",
    "parse_params",
]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """A parameter file, checked. Raises UserError where there is none, with a key's path where a value cannot be."""
    if not path.is_file():
        raise UserError(f"{path}: no such parameter file; `hvg recipe shapes` makes one")
    return parse_params(read_yaml(path), path)


def parse_params(raw: Any, path: Path = Path("params.yaml")) -> Params:
    """Check a mapping as a parameter file; `path` is for messages, and its folder the project's."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of parameters")
    for section in ("levels", "views"):
        keys = raw[section] if isinstance(raw.get(section), dict) else ()
        if unquoted := [key for key in keys if not isinstance(key, str)]:
            raise UserError(f'{path}: {section}: keys must be quoted, "{unquoted[0]}": DVC drops numbers silently')
    params: Params = validated(Params, raw, str(path))
    for key, problem in impossible(params, path.parent):
        raise UserError(f"{path}: {key}: {problem}")
    return params

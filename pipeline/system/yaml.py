"""YAML that people write, checked: every mistake is one line that names the file and the key."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError


def parse_yaml(text: str, source: str) -> Any:
    """The values of a text in YAML 1.2, as DVC reads it. Raises UserError, which begins with `source`, for another."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def validated(kind: Any, values: Any, source: str) -> Any:
    """Values from YAML as the dataclass `kind`. Raises UserError with the path of the first key that cannot be."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(": ".join(part for part in (source, key, explain(first)) if part)) from error
    except (TypeError, ValueError) as error:  # of json: a date, an alias within itself
        raise UserError(f"{source}: holds a value that is no number, text, list or mapping: {error}") from error


def explain(error: Any) -> str:
    """What is wrong with a value, from an error of pydantic's."""
    match error["type"]:
        case "unexpected_keyword_argument":
            return "no such parameter"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case _:
            return f"{error['msg']}, not {json.dumps(error['input'])}"


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found

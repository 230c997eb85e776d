"""YAML that people write, checked: every mistake is one line that names the file and the key."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError

MOST_VALUES, MOST_LETTERS, DEEPEST = 10_000, 4096, 20  # of a file, of a text, mappings within each other
LARGEST = 2**63


def read_yaml(path: Path) -> Any:
    """The values of a file in YAML. Raises UserError where there is none that can be read."""
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A file's text. Raises UserError where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {shortened(str(error))}") from error


def parse_yaml(text: str, source: str) -> Any:
    """The values of a text in YAML 1.2, as DVC reads it. Raises UserError, which begins with `source`, for another."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{source}: lists and mappings lie too deep within each other") from error
    except Exception as error:  # of what tags make: a number of thousands of digits, a date that no calendar has
        raise UserError(f"{source}: a value cannot be read: {shortened(f'{type(error).__name__}: {error}')}") from error


def validated(kind: Any, values: Any, source: str) -> Any:
    """Values from YAML as the dataclass `kind`. Raises UserError with the path of the first key that cannot be."""
    refuse_odd(values, source)
    try:
        return _adapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(": ".join(part for part in (source, key, explain(first)) if part)) from error


def refuse_odd(values: Any, source: str) -> None:
    """UserError, with the path of the first, for values that no parameter can be, for too many and for too deep ones.

    What passes can be walked through to its end.
    """
    for number, (key, problem) in enumerate(_odd(values, "", 0)):
        if problem or number == MOST_VALUES:
            problem = problem or "more values than a file may hold"
            raise UserError(": ".join(part for part in (source, key, problem) if part))


_adapter = functools.cache(TypeAdapter)


def _odd(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of every value that YAML can say and no parameter can be; nothing is wrong with the others.

    Lazily: an alias within itself, or within its own aliases, goes on for ever.
    """
    problem = ""
    match value:
        case bool() | None:
            pass
        case int() if not -LARGEST <= value < LARGEST:
            problem = "has more digits than any parameter"
        case float() if not math.isfinite(value):
            problem = f"must be a finite number, not {value}"
        case str() if len(value) > MOST_LETTERS:
            problem = f"must be shorter than {MOST_LETTERS} letters"
        case str() if any(letter < " " or "\ud800" <= letter <= "\udfff" for letter in value):
            problem = f"must be a line of text without control characters, not {shortened(ascii(value))}"
        case dict() | list() if depth == DEEPEST:
            problem = "lists and mappings lie too deep within each other"
        case int() | float() | str() | dict() | list():
            pass
        case _:
            problem = f"must be a number, text, list or mapping, not {type(value).__name__}"
    yield key, problem
    if isinstance(value, dict | list) and not problem:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            place = f"{key}.{name}" if key else shortened(str(name))
            if not isinstance(name, str | int | float | None):
                yield place, f"a key must be text, not {type(name).__name__}"
            yield from _odd(inner, place, depth + 1)


def shortened(text: str, longest: int = 80) -> str:
    """A text for a message of one line."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def explain(error: Any) -> str:
    """What is wrong with a value, from an error of pydantic's."""
    match error["type"]:
        case "unexpected_keyword_argument":
            return "no such parameter"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case "json_invalid":
            return error["msg"]
        case _:
            return f"{error['msg']}, not {shortened(json.dumps(error['input']))}"


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        flattened |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flattened

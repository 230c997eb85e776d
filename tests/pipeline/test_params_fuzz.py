"""Whatever stands in the place of a parameter: it is one that can be, or one line names its key and what is wrong."""

import contextlib
import copy
import datetime
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.params import load_params, parse_params
from pipeline.system.yaml import parse_yaml, validated

RECIPE: dict[str, Any] = YAML(typ="safe").load(Path("recipes/shapes.yaml").read_text())
_MEASURE = {"every": 1, "videos": 2, "i3d": dict(RECIPE["evaluation"]["i3d_k400"]), "splits": 1, "patience": 1}
RECIPE["levels"]["1"]["training"] |= {"measure": _MEASURE, "start": {"path": "a", "sha256": "a" * 64}}
ABSENT = object()
ITSELF: list[Any] = []
ITSELF.append(ITSELF)
FOUR_AT_A_TIME: list[Any] = []
for _ in range(12):  # 16 million lists, of a dozen aliases
    FOUR_AT_A_TIME = [FOUR_AT_A_TIME] * 4
NEVER: dict[str, Any] = {
    "infinite": math.inf,
    "no number": math.nan,
    "above all floats": 1e300,
    "30 digits": 10**30,
    "5,000 digits": 10**5000,
    "below -2^63": -(10**20),
    "5,000 letters": "a" * 5000,
    "a zero byte": "a\0",
    "a line break": "a\nb",
    "a carriage return": "a\r",
    "half a character": "\ud800",
    "itself": ITSELF,
    "millions": FOUR_AT_A_TIME,
    "a date": datetime.date(2020, 1, 1),
    "bytes": b"\xff",
    "a set": {1},
    "keys that are numbers": {1: 2},
    "too deep": [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]],
}
SOMETIMES = (ABSENT, None, True, False, 0, -1, 1, 3, 1.5, 2**40, "", "x", ".", "..", "/", "~nosuchuser/x", [], {}, [1])


def keys(values: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from keys(value, (*above, key))


def changed(key: tuple[Any, ...], value: Any, recipe: dict[str, Any] = RECIPE) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    *above, last = key
    place: Any = recipe
    for part in above:
        place = place[part]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return recipe


def refusal(recipe: Any) -> str | None:
    """The message, looked at: a short line that begins with the file; None where the recipe can be."""
    try:
        parse_params(recipe)
    except UserError as error:
        message = str(error)
        assert message.startswith("params.yaml: ") and message.isprintable() and len(message) < 300, message
        return message.removeprefix("params.yaml: ")
    return None


@pytest.mark.parametrize("value", NEVER)
def test_what_no_parameter_can_be(value):
    for key in keys(RECIPE):
        message = refusal(changed(key, NEVER[value]))
        assert message is not None, key
        assert message.startswith(".".join(map(str, key))), message


def test_what_some_parameters_can_be():
    refused = {key: sum(refusal(changed(key, value)) is not None for value in SOMETIMES) for key in keys(RECIPE)}
    assert all(count >= len(SOMETIMES) // 3 for count in refused.values()), refused


@pytest.mark.slow
def test_several_values_at_once():
    draws, places, values = random.Random(0), list(keys(RECIPE)), [*NEVER.values(), *SOMETIMES]  # noqa: S311
    refused = 0
    for _ in range(5000):
        recipe = RECIPE
        for key in draws.sample(places, draws.randint(2, 5)):
            with contextlib.suppress(KeyError, IndexError, TypeError):  # what stood above it is another already
                recipe = changed(key, draws.choice(values), recipe)
        refused += refusal(recipe) is not None
    assert 4500 < refused <= 5000


@pytest.mark.parametrize("section", ["views", "levels", "shapes", "data"])
@pytest.mark.parametrize("value", [5, True, 1.5, "x", [1]])
def test_a_section_that_is_none(section, value):
    message = refusal(changed((section,), value))
    assert message is not None and message.startswith(section)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: " + "9" * 5000, "cannot be read"),
        ("seed: " + "[" * 5000 + "]" * 5000, "too deep"),
        ("a: " * 50 + "1", "not valid YAML"),
        ("seed: &a [*a]", "seed"),
        ("seed: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("seed: 2020-13-45", "seed|value"),
        ("seed: \x00", "not valid YAML"),
        ("2020-01-01: 1", "a key must be text"),
        ("seed: {? [a, b] : 1}", "a key must be text"),
        ("? !!binary aGk=\n: 1", "a key must be text"),
        ("seed: !!bool foo", "cannot be read"),
        ("seed: !!int ''", "cannot be read"),
        ("", "expected a mapping"),
        ("- 1", "expected a mapping"),
    ],
)
def test_texts_that_are_no_parameters(tmp_path, text, problem):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        load_params(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_file_that_is_no_text(tmp_path):
    for content in (b"\xff\xfe\0", b"\x80abc"):
        (tmp_path / "params.yaml").write_bytes(content)
        with pytest.raises(UserError, match=r"params\.yaml: "):
            load_params(tmp_path / "params.yaml")


def test_the_number_of_values_is_bounded():
    assert validated(list[int], list(range(100)), "a") == list(range(100))
    with pytest.raises(UserError, match="more values than a file may hold"):
        validated(list[int], list(range(20_000)), "a")


def test_yaml_of_other_kinds_is_left_alone():
    assert parse_yaml("a: [1, 2.5, x, null, true]", "a") == {"a": [1, 2.5, "x", None, True]}

"""Recipes: whole parameter files, one of which becomes the active params.yaml."""

import functools
import io
import itertools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.data.shapes_files import check_replaceable
from pipeline.errors import UserError
from pipeline.metrics.weights import weights_of
from pipeline.params import Params, parse_params
from pipeline.paths import Paths, write_atomic
from pipeline.system.yaml import parse_yaml, read_text, refuse_odd

WEIGHTS = ("i3d", "i3d_k400", "i3d_k600")  # parameters that are files, with their SHA-256


def recipe_names(paths: Paths) -> list[str]:
    """The recipes of the project, sorted."""
    return sorted(file.stem for file in (paths.root / "recipes").glob("*.yaml"))


def apply_recipe(
    paths: Paths,
    name: str | None,
    settings: Sequence[str] = (),
    *,
    force: bool = False,
    check: Callable[[Params], None] = lambda _: None,
) -> Params:
    """Write recipes/<name>.yaml as params.yaml, with `settings` (`data.root=/videos`) in place and comments kept.

    Without a name the settings change params.yaml as it is. The result is checked before anything is written, by
    `check` as well. A params.yaml that someone has edited (neither a recipe nor what this function wrote last) is
    replaced only with `force`, and kept in .hvg/set-aside. Raises UserError for an unknown recipe, a setting that
    cannot be, an edited file, or a set of shapes whose folder holds something else.
    """
    source = paths.params if name is None else paths.root / "recipes" / f"{name}.yaml"
    if name is not None and name not in recipe_names(paths):
        raise UserError(f"recipes: no recipe {name!r}; there are {', '.join(recipe_names(paths))}")
    if not source.is_file():
        raise UserError(f"{source}: no such parameter file; `hvg recipe shapes` makes one")
    if name is not None and not force and edited(paths):
        way_out = f"`hvg recipe {name} --force` replaces it and keeps it aside, `hvg recipe --set …` changes it"
        raise UserError(f"{paths.params} has been edited: {way_out}")
    content = with_settings(read_text(source), settings, source, paths.root)
    params = parse_params(parse_yaml(content, str(source)), paths.params)
    for key in params.shapes:
        check_replaceable(key, paths)
    check(params)
    by_hand = edited(paths)
    if name is not None and by_hand:
        _move_aside(paths, paths.params)
    if name is not None or not by_hand:  # a change by hand stays one, whatever is set on top of it
        write_atomic(_written(paths), content)
    write_atomic(paths.params, content)
    return params


def set_aside(paths: Paths, params: Params) -> list[tuple[Path, Path]]:
    """Move trained levels and samples that a recipe does not have to .hvg/set-aside. Returns from where to where.

    The page and the evaluation depend on the folders that hold all levels: another recipe's would stay in their hashes.
    """
    moved = []
    for place in (paths.artifact(1).parent, paths.conditions(1).parent, paths.samples(1).parent):
        known = params.conditions if place == paths.conditions(1).parent else params.levels
        for old in sorted(place.glob("level-*")):
            if old.name.removeprefix("level-") in known:
                continue
            moved.append((old, _move_aside(paths, old)))
    return moved


def _move_aside(paths: Paths, old: Path) -> Path:
    """Move what another recipe would be in the way of to .hvg/set-aside, beside what is there. Returns where."""
    aside = paths.state / "set-aside" / old.relative_to(paths.root)
    new = next(free for n in itertools.count(1) if not (free := aside.with_name(f"{old.name}.{n}")).exists())
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        return old.rename(new)
    except OSError as error:
        raise UserError(f"{old} is none of this recipe's and cannot be moved to {new}: {error}") from error


def edited(paths: Paths) -> bool:
    """Whether params.yaml holds someone's own changes: it is no recipe and not what `apply_recipe` wrote last."""
    ours = [*(paths.root / "recipes").glob("*.yaml"), _written(paths)]
    there = paths.params.is_file()
    return there and not any(file.is_file() and file.read_bytes() == paths.params.read_bytes() for file in ours)


def with_settings(text: str, settings: Sequence[str], source: Path, root: Path) -> str:
    """A parameter file's text with values replaced, each `key.of.it=value` with the value in YAML.

    A file of weights, by a path from `root`, gets its SHA-256 beside it.
    """
    if not settings:
        return text
    yaml = YAML()  # round trip: comments and order stay
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    parse_yaml(text, str(source))  # raises where it is none
    tree = yaml.load(text)
    for setting in settings:
        _set(tree, setting, source, root)
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _set(tree: Any, setting: str, source: Path, root: Path) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UserError(f"--set {setting}: expected KEY=VALUE, such as data.root=/videos")
    *above, last = key.split(".")
    try:
        node = functools.reduce(operator.getitem, above, tree)
        before = node.get(last)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"--set {key}: no such parameter in {source}") from None
    value = parse_yaml(text, f"--set {key}")
    if isinstance(before, str) and isinstance(value, int | float):
        value = text  # a parameter that is text stays text: `evaluation.split=2` means "2"
    refuse_odd(value, f"--set {key}")
    node[last] = _with_hashes(last, value, root)


def _with_hashes(key: str, value: Any, root: Path) -> Any:
    if isinstance(value, dict):
        return {name: _with_hashes(name, inner, root) for name, inner in value.items()}
    return weights_of(value, root) if key in WEIGHTS and isinstance(value, str) else value


def _written(paths: Paths) -> Path:
    """What was last written as params.yaml."""
    return paths.state / "params.yaml"

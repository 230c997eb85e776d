"""Runs as a terminal shows them: chosen, sorted, side by side, or one in full."""

import difflib
from collections.abc import Mapping, Sequence
from itertools import chain

import pandas as pd

from pipeline.errors import UserError
from pipeline.runs.store import TrackedRun

REPRODUCTION = "reproduction"
_VALUE = 24  # characters of a value that are shown
Key = tuple[str, str]  # the name of a run within, or none, and what is told of it


def choose(
    runs: Sequence[TrackedRun],
    *,
    name: str | None = None,
    level: int | None = None,
    status: str | None = None,
    sort: str | None = None,
    last: int | None = None,
) -> list[TrackedRun]:
    """Reproductions, oldest first; or, by a word of their names or by level, the runs within them.

    `last` keeps the newest, `sort` then puts the least value of a metric first, and runs without it, or NaN, last. A
    reproduction has the metrics of its levels and of its evaluation. Raises UserError for one that none of them has.
    """
    inner = name is not None or level is not None
    chosen = [run for run in runs if inner or run.parent is None]
    chosen = [run for run in chosen if name is None or name in run.name]
    chosen = [run for run in chosen if level is None or run.tags.get("hvg.level") == str(level)]
    chosen = [run for run in chosen if status is None or run.status.lower() == status.lower()]
    chosen = chosen[-last:] if last is not None else chosen
    if sort is None or not chosen:
        return chosen
    measured = pd.DataFrame(
        [dict(chain(*(one.metrics.items() for one in (*_within(run, runs), run)))) for run in chosen]
    )
    if sort not in measured:
        near = ", ".join(difflib.get_close_matches(sort, [*measured], cutoff=0)) or "no metrics"
        raise UserError(f"--sort {sort}: none of these runs measured it; they have {near}")
    return [chosen[place] for place in measured.sort_values(sort, kind="stable").index]  # NaN last


def _within(run: TrackedRun, runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """The runs within a reproduction, of each name the newest."""
    return list({child.name: child for child in runs if child.parent == run.id}.values())


def side_by_side(chosen: Sequence[TrackedRun], runs: Sequence[TrackedRun], width: int | None = None) -> str:
    """A column a run: the parameters that differ, then what it and each run within it measured last.

    Runs that do not fit into `width` characters follow below.
    """
    same = {key for run in chosen for key in run.params if len({one.params.get(key) for one in chosen}) == 1}
    same |= {"name"} if all(run.name == REPRODUCTION for run in chosen) else set()
    columns = []
    for run in chosen:
        facts = {"name": run.name, "run": run.id[:8], **_head(run), **run.params, **_numbers(run)}
        column = {("", key): value for key, value in facts.items() if key not in same}
        for child in _within(run, runs):
            column |= {(child.name, key): value for key, value in {"": child.status.lower(), **_numbers(child)}.items()}
        columns.append(
            {key: value if len(value) <= _VALUE else f"{value[: _VALUE - 1]}…" for key, value in column.items()}
        )
    return _table(columns, width)


def in_full(runs: Sequence[tuple[TrackedRun, Sequence[str]]]) -> str:
    """Runs one below the other, with all their parameters and metrics and the names of the files they keep."""
    tables = []
    for run, files in runs:
        facts = {"": run.id, **_head(run), **run.params, **_numbers(run), **dict.fromkeys(files, "file")}
        tables.append(_table([{(run.name, key): value for key, value in facts.items()}]))
    return "\n".join(tables)


def _table(columns: Sequence[Mapping[Key, str]], width: int | None = None) -> str:
    """Text, a line a key that any column has, below the name of its run, in the order in which they come."""
    keys = dict.fromkeys(key for column in columns for key, value in column.items() if value)
    names = list(dict.fromkeys(name for name, _ in keys))
    order = sorted(keys, key=lambda key: (names.index(key[0]), key[1] != ""))
    table = pd.DataFrame([[column.get(key, "") for column in columns] for key in order])
    table.index = [f"  {key}" if name and key else name or key for name, key in order]
    lines = table.to_string(header=False, line_width=width).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _head(run: TrackedRun) -> dict[str, str]:
    git = run.tags.get("mlflow.source.git.commit", "")[:8]
    return {
        "started": f"{run.start.astimezone():%Y-%m-%d %H:%M}",
        "status": run.status.lower(),
        "experiment": run.tags.get("hvg.experiment", ""),
        "git": git + ("+" if run.tags.get("hvg.edited") == "true" else ""),
    }


def _numbers(run: TrackedRun) -> dict[str, str]:
    return {key: f"{value:.5g}" for key, value in sorted(run.metrics.items())}


def one(runs: Sequence[TrackedRun], start: str) -> TrackedRun:
    """The run whose id begins so. Raises UserError where there is none, or more than one."""
    same = [run for run in runs if run.id.startswith(start)]
    if len(same) != 1 or not start:
        told = f"{len(same)} runs begin so; give more of the id" if same else "no such run; `hvg runs` names them"
        raise UserError(f"{start!r}: {told}")
    return same[0]


def reproduction_of(run: TrackedRun, runs: Sequence[TrackedRun]) -> tuple[TrackedRun, list[TrackedRun]]:
    """The reproduction that a run is or belongs to, and the runs within it, oldest first."""
    parent = run if run.parent is None else next((other for other in runs if other.id == run.parent), run)
    return parent, [child for child in runs if child.parent == parent.id]

"""Runs as a terminal shows them: chosen, sorted, side by side, or one in full."""

import difflib
import math
from collections.abc import Sequence

import pandas as pd

from pipeline.errors import UserError
from pipeline.runs.store import TrackedRun

REPRODUCTION = "reproduction"
_VALUE = 24  # characters of a value that are shown
_HEADS = ("name", "run", "started", "status", "experiment", "git")


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
    if sort is None:
        return chosen
    measured = {run.id: _measured(run, runs) for run in chosen}
    known = sorted({key for metrics in measured.values() for key in metrics})
    if chosen and sort not in known:
        near = difflib.get_close_matches(sort, known, n=3, cutoff=0.4) or known[:5]
        raise UserError(f"--sort {sort}: none of these runs measured it; they have {', '.join(near) or 'no metrics'}")
    values = {run.id: measured[run.id].get(sort, math.nan) for run in chosen}
    last_of_all = math.inf, True
    return sorted(chosen, key=lambda run: last_of_all if math.isnan(values[run.id]) else (values[run.id], False))


def _measured(run: TrackedRun, runs: Sequence[TrackedRun]) -> dict[str, float]:
    """A run's metrics and those of the runs within it."""
    metrics = {key: value for child in _within(run, runs) for key, value in child.metrics.items()}
    return metrics | run.metrics


def _within(run: TrackedRun, runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """The runs within a reproduction, of each name the newest."""
    return list({child.name: child for child in runs if child.parent == run.id}.values())


def side_by_side(chosen: Sequence[TrackedRun], runs: Sequence[TrackedRun], width: int | None = None) -> str:
    """A column a run: the parameters that differ, then what it and each run within it measured last.

    Of more runs than fit into `width` characters the last ones are shown, and their number is told.
    """
    within = [{child.name: child for child in _within(run, runs)} for run in chosen]
    rows = [(key, [_head(run)[key] for run in chosen]) for key in _HEADS]
    rows = [row for row in rows if any(row[1]) and not (row[0] == "name" and set(row[1]) == {REPRODUCTION})]
    for key in dict.fromkeys(key for run in chosen for key in run.params):
        values = [run.params.get(key, "") for run in chosen]
        if len(set(values)) > 1:
            rows.append((key, values))
    rows += _metrics(list(chosen), "")
    for name in dict.fromkeys(name for children in within for name in children):
        same = [children.get(name) for children in within]
        rows.append((name, [run.status.lower() if run else "" for run in same]))
        rows += _metrics(same, "  ")
    table = pd.DataFrame([[*map(_short, values)] for _, values in rows], index=[key for key, _ in rows])
    return _fitting(table, width)


def _fitting(table: pd.DataFrame, width: int | None, left_out: int = 0) -> str:
    """A table as text, without so many of its first columns and what is empty then, and as many more as do not fit."""
    shown = table.iloc[:, left_out:]
    lines = [line.rstrip() for line in shown[(shown != "").any(axis=1)].to_string(header=False).splitlines()]
    if width is not None and max(map(len, lines)) > width and shown.shape[1] > 1:
        return _fitting(table, width, left_out + 1)
    more = [f"{left_out} more do not fit; --last, --json and a wider window show others"] if left_out else []
    return "\n".join([*lines, *more])


def _metrics(runs: Sequence[TrackedRun | None], before: str) -> list[tuple[str, list[str]]]:
    keys = sorted({key for run in runs if run for key in run.metrics})
    return [
        (f"{before}{key}", [f"{run.metrics[key]:.5g}" if run and key in run.metrics else "" for run in runs])
        for key in keys
    ]


def _head(run: TrackedRun) -> dict[str, str]:
    git = run.tags.get("mlflow.source.git.commit", "")[:8]
    edited = "+" if run.tags.get("hvg.edited") == "true" else ""
    return {
        "name": run.name,
        "run": run.id[:8],
        "started": f"{run.start.astimezone():%Y-%m-%d %H:%M}",
        "status": run.status.lower(),
        "experiment": run.tags.get("hvg.experiment", ""),
        "git": f"{git}{edited}",
    }


def _short(value: str) -> str:
    return value if len(value) <= _VALUE else f"{value[: _VALUE - 1]}…"


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


def in_full(runs: Sequence[tuple[TrackedRun, Sequence[str]]]) -> str:
    """Runs one below the other, with all their parameters and metrics and the names of the files they keep."""
    lines: list[str] = []
    for run, files in runs:
        head = _head(run)
        lines += [*([""] if lines else []), head["name"]]
        lines += [f"  {key:10} {value}" for key, value in ({**head, "run": run.id}).items() if value and key != "name"]
        metrics = {key: f"{value:.5g}" for key, value in sorted(run.metrics.items())}
        for title, values in (("parameters", run.params), ("metrics", metrics)):
            if values:
                first = max(map(len, values))
                lines += [f"  {title}", *(f"    {key:{first}}  {value}" for key, value in values.items())]
        if files:
            lines += ["  files", *(f"    {file}" for file in files)]
    return "\n".join(lines)

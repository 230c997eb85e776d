"""Several ways to do the same, measured in turn: rounds are interleaved, and medians of them are taken."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from pipeline.progress import progress


def interleaved(
    ways: Mapping[str, Callable[[], Any]], clock: Callable[[], float], *, rounds: int, desc: str
) -> pd.DataFrame:
    """Seconds by `clock`: a row for each of `rounds` rounds, a column a way. A round before them warms up."""
    seconds = []
    with progress(total=(rounds + 1) * len(ways), desc=desc, unit="runs") as bar:
        for _ in range(rounds + 1):
            seconds.append({})
            for name, way in ways.items():
                before = clock()
                way()
                seconds[-1][name] = clock() - before
                bar.update()
    return pd.DataFrame(seconds[1:])


def medians(values: pd.DataFrame, to: str | None = None) -> dict[str, float]:
    """By way the median over rounds: of its values, or of their ratios to those of the way `to` in the same round."""
    return (values if to is None else values.div(values[to], axis=0)).median().to_dict()


def table(cost: Mapping[str, Any]) -> str:
    """Measurements for people: a row a way, a column for each of the values by way; the others below, a line each."""
    named = {name.replace("_", " "): value for name, value in cost.items()}
    rows = pd.DataFrame({name: values for name, values in named.items() if isinstance(values, dict)})
    rest = [f"{name}: {_text(value)}" for name, value in named.items() if not isinstance(value, dict)]
    return "\n".join([rows.map(_text).to_string(), "", *rest])


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

"""Several ways to do the same, measured in turn: rounds are interleaved, and medians of them are taken."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.progress import progress


def interleaved(
    ways: Mapping[str, Callable[[int], Any]], clock: Callable[[], float], *, rounds: int, desc: str
) -> dict[str, list[float]]:
    """Seconds by `clock` that each way, given the number of the round, takes in each of `rounds` rounds from 1 on.

    A round before them, numbered 0, warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with progress(total=(rounds + 1) * len(ways), desc=desc, unit="runs") as bar:
        for number in range(rounds + 1):
            for name, way in ways.items():
                before = clock()
                way(number)
                if number:
                    seconds[name].append(clock() - before)
                bar.update()
    return seconds


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By name the median over rounds."""
    return {name: statistics.median(of_rounds) for name, of_rounds in values.items()}


def ratios(values: Mapping[str, Sequence[float]], to: str) -> dict[str, float]:
    """By name the median over rounds of the ratio to the way named `to` in the same round."""
    return medians({name: [a / b for a, b in zip(v, values[to], strict=True)] for name, v in values.items()})


def table(head: str, columns: Mapping[str, tuple[str, Mapping[str, float]]], tail: Sequence[str]) -> str:
    """Measurements for people: a row a way, a column for each title and its format and values by way."""
    frame = pd.DataFrame({title: values for title, (_, values) in columns.items()})
    forms: Any = {title: form.format for title, (form, _) in columns.items()}
    return "\n".join([head, "", frame.to_string(formatters=forms), "", *tail])

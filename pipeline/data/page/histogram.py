"""Counts of values as a few bars that a person can read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10

import numpy as np
from jaxtyping import Float64

BINS = 12  # bars at most


@dataclass(frozen=True)
class Bar:
    """One bar. share: of the longest, 0 to 1."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class Histogram:
    """How often which values occur; `note` says what they are."""

    title: str
    note: str
    bars: list[Bar]


def of_ranges(title: str, unit: str, values: Float64[np.ndarray, " values"]) -> Histogram:
    """By ranges of one round width, half open; what lies far behind the 99th percentile shares the last.

    Values that are not finite are left out.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return Histogram(title, f"{unit}; not known", [])
    low, median, high = (float(value) for value in np.quantile(known, (0, 0.5, 0.99)))
    most = float(known.max())
    whole = bool((known == known.round()).all())
    width = _round_width((high - low) / (BINS - 2), whole)
    first = floor(low / width)
    counts = np.bincount(np.minimum(np.floor(known / width) - first, BINS - 1).astype(int))
    edges = [(first + number) * width for number in range(len(counts) + 1)]
    names = [f"{a:g}" if whole and width == 1 else f"{a:g} to {b - whole:g}" for a, b in pairwise(edges)]
    if most >= edges[-1]:
        names[-1] = f"{edges[-2]:g} to {most:.6g}"
    return Histogram(title, f"{unit}; {low:.6g} to {most:.6g}, median {median:.6g}", _bars(names, counts.tolist()))


def of_values(title: str, unit: str, values: Iterable[str | float]) -> Histogram:
    """By the most frequent values, in their order, which are names or numbers."""
    counts = Counter(values)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = sorted(ranked[: BINS - 1] if len(ranked) > BINS else ranked)
    names = [value if isinstance(value, str) else f"{value:g}" for value, _ in shown]
    numbers = [count for _, count in shown]
    if len(shown) < len(ranked):
        names.append(f"{len(ranked) - len(shown)} other values")
        numbers.append(counts.total() - sum(numbers))
    return Histogram(title, unit, _bars(names, numbers))


def _round_width(at_least: float, whole: bool) -> float:
    """1, 2 or 5 times a power of ten; for whole numbers 1 or more."""
    power = 10.0 ** floor(log10(max(at_least, 1e-3)))
    width = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= at_least)
    return max(width, 1.0) if whole else width


def _bars(names: list[str], counts: list[int]) -> list[Bar]:
    return [Bar(name, count, count / max(counts)) for name, count in zip(names, counts, strict=True)]

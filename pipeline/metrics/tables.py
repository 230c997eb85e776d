"""The tables beside the numbers: spectra, motion, classes, and how the numbers depend on how many videos there are."""

from collections.abc import Iterator, Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.measured import FeatureNetworks, Measured, biased_measures, measures

RESAMPLES = 8  # draws for each point of the curve by number of videos
LINE_POINTS = 3  # of it, that an extrapolation takes at least
SET_VIDEOS = 600  # at most in each set of spectra (App. D)


def psd_table(real: Measured, generated: Measured, frames: Sequence[int], sets: int) -> pd.DataFrame:
    """A row for every frame and frequency: the mean spectra and their deviation over sets of videos (App. D)."""
    columns = _columns(over_sets(real.spectra, sets), over_sets(generated.spectra, sets))
    bins = real.spectra.shape[-1]
    return pd.DataFrame({"frame": np.repeat(frames, bins), "cycles": np.tile(np.arange(bins), len(frames)), **columns})


def over_sets(spectra: Float[Tensor, "N F bins"], sets: int) -> tuple[Float[Tensor, "F bins"], Float[Tensor, "F bins"]]:
    """The mean and the standard deviation, over sets, of a set's mean spectrum.

    Videos are dealt out to the sets in turn, the first SET_VIDEOS to each; there are no fewer of them than sets.
    """
    assert sets <= len(spectra)
    counted = spectra[: sets * SET_VIDEOS]
    return _mean_and_deviation(torch.stack([counted[i::sets].mean(dim=0) for i in range(sets)]))


def motion_table(real: Measured, generated: Measured) -> pd.DataFrame:
    """A row for every step from frame t to t + 1: the mean frame difference and its deviation over videos."""
    columns = _columns(_mean_and_deviation(real.motion), _mean_and_deviation(generated.motion))
    return pd.DataFrame({"step": range(1, len(columns["real_mean"]) + 1), **columns})


def _mean_and_deviation(values: Float[Tensor, "N ..."]) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation (N - 1; 0 of one) of each value."""
    mean = values.mean(dim=0)
    return mean, values.std(dim=0) if len(values) > 1 else torch.zeros_like(mean)


def _columns(real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]) -> dict[str, list[float]]:
    names = ("real_mean", "real_deviation", "generated_mean", "generated_deviation")
    return {name: values.flatten().tolist() for name, values in zip(names, (*real, *generated), strict=True)}


def class_table(
    networks: FeatureNetworks, real: Measured, generated: Measured, classes: Sequence[str], splits: int | None
) -> pd.DataFrame:
    """A row for every class with at least two videos on each side (Table 4); no rows where there are no classes.

    splits: None where there is no inception score; a class's has one split.
    """
    numbers = measures(networks, real, generated, splits and 1)
    rows = []
    for label, name in enumerate(classes):
        a, b = real.labels == label, generated.labels == label
        if min(a.sum(), b.sum()) >= 2:
            of_class = [measure(x[a], y[b]) for measure, x, y in numbers.values()]
            rows.append([name, int(a.sum()), int(b.sum()), *of_class])
    return pd.DataFrame(rows, columns=["class", "real", "generated", *numbers])


def count_table(
    networks: FeatureNetworks,
    real: Measured,
    generated: Measured,
    *,
    metrics: Mapping[str, float],
    splits: int | None,
    seed: int,
) -> pd.DataFrame:
    """Each of the metrics that depend on it from n videos of each side, for a few n: whether there are enough of them.

    It ends at the smaller side's number of videos with the metric itself, of `metrics`, which comes from all videos of
    both sides. The mean is over draws of different videos. `low` and `high` are two standard deviations away from it,
    of draws with replacement (the bootstrap): these repeat videos, which raises a Frechet distance, so that their mean
    says nothing. `infinity` and `slope` are those of the line of a Frechet distance in 1 / n; NaN where there is none.
    """
    videos = min(len(real.logits), len(generated.logits))
    counts = sorted({videos // 8, videos // 4, videos // 2, videos} - {0, 1})
    rows = []
    for name, (measure, a, b) in biased_measures(networks, real, generated, splits).items():
        draw, means, deviations = np.random.default_rng(seed), [], []
        for n in counts:
            deviations.append(np.std([measure(*drawn) for drawn in _draws((a, b), n, draw, again=True)], ddof=1))
            if n == videos:
                means.append(metrics[name])
            else:
                means.append(np.mean([measure(*drawn) for drawn in _draws((a, b), n, draw, again=False)]))
        fit = nan, nan
        if measure is frechet_distance:
            alike = slice(None if len(a) == len(b) else -1)  # the last one's other side has more videos
            fit = line(counts[alike], means[alike], a.shape[1])
        for n, mean, deviation in zip(counts, means, deviations, strict=True):
            rows.append([name, n, mean, mean - 2 * deviation, mean + 2 * deviation, *fit])
    return pd.DataFrame(rows, columns=["metric", "n", "mean", "low", "high", "infinity", "slope"])


def line(counts: Sequence[int], means: Sequence[float], dimensions: int) -> tuple[float, float]:
    """A Frechet distance of infinitely many videos, and its slope over 1 / n (Chong & Forsyth 2020).

    Through the means of more videos than dimensions: with fewer, covariances have no full rank, and the distance does
    not follow a line. NaN where these are fewer than LINE_POINTS.
    """
    points = [(1 / n, mean) for n, mean in zip(counts, means, strict=True) if n > dimensions]
    if len(points) < LINE_POINTS:
        return nan, nan
    slope, infinity = np.polyfit(*zip(*points, strict=True), deg=1)
    return infinity, slope


def at_infinity(counts: pd.DataFrame) -> dict[str, float]:
    """The metrics of infinitely many videos that a count_table has."""
    ends = counts.dropna(subset="infinity").drop_duplicates("metric")
    return {f"{name}_infinity": value for name, value in zip(ends["metric"], ends["infinity"], strict=True)}


def _draws(sides: Sequence[Tensor], n: int, draw: np.random.Generator, *, again: bool) -> Iterator[list[Tensor]]:
    """RESAMPLES draws of n videos of each side. again: a video may be drawn several times."""
    for _ in range(RESAMPLES):
        yield [side[torch.from_numpy(draw.choice(len(side), n, replace=again))] for side in sides]

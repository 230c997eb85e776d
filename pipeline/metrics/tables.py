"""The tables beside the numbers: spectra, motion, classes, and how the numbers depend on how many videos there are."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline.metrics.frechet import frechet_of_sets
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.measured import Measured, scores

log = logging.getLogger(__name__)
COUNTED_VIDEOS = 2048  # at most, behind the curve by number of samples, but for its end
RESAMPLES = 8  # draws for each point of it


Measure = Callable[[Tensor, Tensor], float]  # of the features of real and of generated videos


def psd_table(real: Measured, generated: Measured) -> pd.DataFrame:
    """A row for every frame and frequency: the mean spectra and their deviation over sets of videos (App. D)."""
    columns = _columns(real.spectra.over_sets(), generated.spectra.over_sets())
    frames = real.spectra.frames
    bins = len(columns["real_mean"]) // len(frames)
    return pd.DataFrame({"frame": np.repeat(frames, bins), "cycles": np.tile(np.arange(bins), len(frames)), **columns})


def motion_table(real: Measured, generated: Measured) -> pd.DataFrame:
    """A row for every step from frame t to t + 1: the mean frame difference and its deviation over videos."""
    columns = _columns(real.motion.by_step(), generated.motion.by_step())
    return pd.DataFrame({"step": range(1, len(columns["real_mean"]) + 1), **columns})


def _columns(real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]) -> dict[str, list[float]]:
    names = ("real_mean", "real_deviation", "generated_mean", "generated_deviation")
    return {name: values.flatten().tolist() for name, values in zip(names, (*real, *generated), strict=True)}


def class_table(real: Measured, generated: Measured, classes: Sequence[str]) -> pd.DataFrame:
    """A row for every class with at least two videos on each side (Table 4), of those whose features are kept.

    No rows where there are no classes.
    """
    if len(classes) and any(side.count > len(side.labels) for side in (real, generated)):
        kept = max(len(side.labels) for side in (real, generated))
        log.warning("the table by class is of the first %d clips of a side alone: see docs/metrics.md", kept)
    measures = _measures(real, generated, labelled=True, splits=1)
    rows = []
    for label, name in enumerate(classes):
        a, b = real.labels == label, generated.labels == label
        if min(a.sum(), b.sum()) >= 2:
            numbers = [measure(x[a], y[b]) for measure, x, y in measures.values()]
            rows.append([name, int(a.sum()), int(b.sum()), *numbers])
    return pd.DataFrame(rows, columns=["class", "real", "generated", *measures])


def count_table(real: Measured, generated: Measured, *, labelled: bool, seed: int) -> pd.DataFrame:
    """Each metric from n videos of each side, for a few n: whether there are enough of them.

    It ends at the smaller side's number of videos with the metric itself, which comes from all videos of both sides.
    Where these are more than COUNTED_VIDEOS, the bar there is that of COUNTED_VIDEOS videos, as a rule the wider one.
    """
    exact, all_videos = scores(real, generated, labelled=labelled), min(real.count, generated.count)
    measures = _measures(real, generated, labelled=labelled, splits=generated.inception.splits)
    rows = []
    for name, (measure, a, b) in measures.items():
        points = by_number(measure, a, b, seed)
        points = [point for point in points if point[0] < all_videos] + [(all_videos, exact[name], points[-1][2])]
        rows += [[name, n, mean, mean - 2 * deviation, mean + 2 * deviation] for n, mean, deviation in points]
    return pd.DataFrame(rows, columns=["metric", "n", "mean", "low", "high"])


def _measures(
    real: Measured, generated: Measured, *, labelled: bool, splits: int
) -> dict[str, tuple[Measure, Tensor, Tensor]]:
    """By metric, how it is measured of some videos, and the features of all that are kept of both sides."""
    networks, logits, pooled = real.networks, (real.logits, generated.logits), (real.pooled, generated.pooled)
    distances = {
        networks.logits_name: (frechet_of_sets, *logits),
        networks.pooled_name: (frechet_of_sets, *pooled),
    }
    if not labelled or networks.logits.random:
        return distances
    return {**distances, "inception_score": (lambda _, b: inception_score(b, min(splits, len(b)))[0], *logits)}


def by_number(
    measure: Measure, a: Shaped[Tensor, "N D"], b: Shaped[Tensor, "M D"], seed: int
) -> list[tuple[int, float, float]]:
    """(n, mean, deviation) of a measure of two sets for n videos of each: an eighth, a quarter, a half, all.

    The mean is over draws of different videos, the deviation over draws with replacement (the bootstrap): these repeat
    videos, which raises a Frechet distance, so that their mean says nothing.
    """
    a, b = a[:COUNTED_VIDEOS], b[:COUNTED_VIDEOS]
    most = min(len(a), len(b))
    draw = np.random.default_rng(seed)

    def drawn(n: int, *, again: bool) -> float:
        chosen = [torch.from_numpy(draw.choice(len(side), n, replace=again)) for side in (a, b)]
        return measure(a[chosen[0]], b[chosen[1]])

    points = []
    for n in sorted({most // parts for parts in (8, 4, 2, 1)} - {0, 1}):
        everything = n == len(a) == len(b)
        mean = measure(a, b) if everything else float(np.mean([drawn(n, again=False) for _ in range(RESAMPLES)]))
        points.append((n, mean, float(np.std([drawn(n, again=True) for _ in range(RESAMPLES)], ddof=1))))
    return points

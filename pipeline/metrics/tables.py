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
from pipeline.metrics.measured import Measured, Networks, scores

log = logging.getLogger(__name__)
COUNTED = 2048  # videos at most behind the curve by number of samples, but for its end
RESAMPLES = 8  # draws for each point of it


def psd_table(real: Measured, generated: Measured) -> pd.DataFrame:
    """A row for every frame and frequency: the mean spectra and their deviation over sets of videos (App. D)."""
    columns = {}
    for side, measured in (("real", real), ("generated", generated)):
        mean, deviation = measured.spectra.over_sets()
        columns |= {f"{side}_mean": mean.flatten().tolist(), f"{side}_deviation": deviation.flatten().tolist()}
    shown = real.spectra.frames
    bins = len(columns["real_mean"]) // len(shown)
    return pd.DataFrame({"frame": np.repeat(shown, bins), "cycles": np.tile(np.arange(bins), len(shown)), **columns})


def motion_table(real: Measured, generated: Measured) -> pd.DataFrame:
    """A row for every step from frame t to t + 1: the mean frame difference and its deviation over videos."""
    columns = {}
    for side, measured in (("real", real), ("generated", generated)):
        mean, deviation = measured.motion.by_step()
        columns |= {f"{side}_mean": mean.tolist(), f"{side}_deviation": deviation.tolist()}
    return pd.DataFrame({"step": range(1, len(columns["real_mean"]) + 1), **columns})


def class_table(networks: Networks, real: Measured, generated: Measured, classes: Sequence[str]) -> pd.DataFrame:
    """A row for every class with at least two videos on each side (Table 4), of those whose features are kept.

    No rows where there are no classes.
    """
    if len(classes) and any(side.count > len(side.labels) for side in (real, generated)):
        kept = max(len(side.labels) for side in (real, generated))
        log.warning("the table by class is of the first %d clips of a side alone: see docs/metrics.md", kept)
    scored = not networks.logits.random
    names = ["class", "real", "generated", networks.logits_name, networks.pooled_name]
    rows = []
    for label, name in enumerate(classes):
        a, b = real.labels == label, generated.labels == label
        if min(a.sum(), b.sum()) < 2:
            continue
        row = [name, int(a.sum()), int(b.sum())]
        row += [frechet_of_sets(real.logits[a], generated.logits[b])]
        row += [frechet_of_sets(real.pooled[a], generated.pooled[b])]
        rows.append([*row, inception_score(generated.logits[b])[0]] if scored else row)
    return pd.DataFrame(rows, columns=[*names, "inception_score"] if scored else names)


def count_table(networks: Networks, real: Measured, generated: Measured, *, labelled: bool, seed: int) -> pd.DataFrame:
    """Each metric from n videos of each side, for a few n: whether there are enough of them.

    It ends at the smaller side's number of videos with the metric itself, which comes from all videos of both sides.
    Where these are more than COUNTED, the bar there is that of COUNTED videos, as a rule the wider one.
    """
    exact, whole = scores(networks, real, generated, labelled=labelled), min(real.count, generated.count)
    splits = generated.inception.splits
    measures: dict[str, tuple[Callable[[Tensor, Tensor], float], Tensor, Tensor]] = {
        networks.logits_name: (frechet_of_sets, real.logits, generated.logits),
        networks.pooled_name: (frechet_of_sets, real.pooled, generated.pooled),
    }
    if labelled and not networks.logits.random:
        measures["inception_score"] = (
            lambda _, b: inception_score(b, min(splits, len(b)))[0],
            real.logits,
            generated.logits,
        )
    rows = []
    for name, (measure, a, b) in measures.items():
        found = by_number(measure, a, b, seed)
        found = [point for point in found if point[0] < whole] + [(whole, exact[name], found[-1][2])]
        for n, mean, deviation in found:
            rows.append([name, n, mean, mean - 2 * deviation, mean + 2 * deviation])
    return pd.DataFrame(rows, columns=["metric", "n", "mean", "low", "high"])


def by_number(
    measure: Callable[[Tensor, Tensor], float], a: Shaped[Tensor, "N D"], b: Shaped[Tensor, "M D"], seed: int
) -> list[tuple[int, float, float]]:
    """(n, mean, deviation) of a measure of two sets for n videos of each: an eighth, a quarter, a half, all.

    The mean is over draws of different videos, the deviation over draws with replacement (the bootstrap): these repeat
    videos, which raises a Frechet distance, so that their mean says nothing.
    """
    a, b = a[:COUNTED], b[:COUNTED]
    most = min(len(a), len(b))
    draw = np.random.default_rng(seed)

    def drawn(n: int, *, again: bool) -> float:
        chosen = [torch.from_numpy(draw.choice(len(side), n, replace=again)) for side in (a, b)]
        return measure(a[chosen[0]], b[chosen[1]])

    found = []
    for n in sorted({most // parts for parts in (8, 4, 2, 1)} - {0, 1}):
        whole = n == len(a) == len(b)
        mean = measure(a, b) if whole else float(np.mean([drawn(n, again=False) for _ in range(RESAMPLES)]))
        found.append((n, mean, float(np.std([drawn(n, again=True) for _ in range(RESAMPLES)], ddof=1))))
    return found

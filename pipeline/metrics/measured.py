"""Everything measured of the clips of a set, and the numbers two such sets give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from pipeline.metrics.features import BATCH_CLIPS, FeatureNetwork, preprocess
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.motion import frame_differences
from pipeline.metrics.pairwise import kernel_distance, share_inside
from pipeline.metrics.psd import frame_spectra
from pipeline.workers import Workers

# What the numbers of a random I3D are called. They rank nothing but runs of this code with this seed.
RANDOM_LOGITS, RANDOM_POOLED = "random_i3d_frechet_logits", "random_i3d_frechet_pooled"
PAIRS = "kvd", "precision", "recall"
RANDOM_PAIRS = "random_i3d_kernel_logits", "random_i3d_precision", "random_i3d_recall"

# How a number is measured of features of real and of generated videos.
Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class FeatureNetworks:
    """The I3D of Kinetics-400 behind IS and FVD, or a random one, and that of Kinetics-600 behind FID, if any."""

    k400: FeatureNetwork
    k600: FeatureNetwork | None = None


OF_FEATURES, OF_FRAMES = ("labels", "logits", "pooled", "pooled_k600"), ("spectra", "motion")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured of each clip of a set, in its order, on the CPU: some 8 kB a clip.

    labels: classes, -1 for none; of the first N clips, which have features. logits, pooled: of the I3D of Kinetics-400.
    pooled_k600: of the other one, or N x 0. spectra: of chosen frames, motion: the
    differences from frame to frame; both are of all M clips, or empty where they were not asked for.
    """

    labels: Int64[Tensor, " N"]
    logits: Float[Tensor, "N classes"]
    pooled: Float[Tensor, "N pooled"]
    pooled_k600: Float[Tensor, "N pooled_k600"]
    spectra: Float[Tensor, "M F bins"]
    motion: Float[Tensor, "M steps"]

    def gather(self, labels: Int64[Tensor, " N"], clips: int, workers: Workers) -> "Measured":
        """The whole set of so many clips, with its labels, of which each worker has measured every count-th clip.

        It begins at its rank; one whose rank is beyond the clips has measured any.
        """

        def whole(values: Tensor, total: int) -> Tensor:
            everyone = values.new_zeros(total, *values.shape[1:])
            share = everyone[workers.rank :: workers.count]
            share.copy_(values[: len(share)])
            return workers.sum(everyone)

        return Measured(
            labels=labels,
            logits=whole(self.logits, len(labels)),
            pooled=whole(self.pooled, len(labels)),
            pooled_k600=whole(self.pooled_k600, len(labels)),
            spectra=whole(self.spectra, clips),
            motion=whole(self.motion, clips),
        )


def measure(
    networks: FeatureNetworks,
    clips: Iterator[UInt8[np.ndarray, "T S S 3"]],
    psd_frames: Sequence[int] | None = None,
    most: int | None = None,
) -> Measured:
    """Go once over clips, at least one, of which a few are in memory at a time.

    psd_frames: whose spectra are measured, from 1, and motion with them; None: neither.
    most: clips whose features are measured, the first ones; None: all of them.
    """
    logits, pooled, pooled_k600, spectra, motion = [], [], [], [], []
    while batch := list(islice(clips, BATCH_CLIPS)):
        videos = torch.from_numpy(np.stack(batch)).movedim(-1, -3)
        spectra.append(torch.zeros(len(videos), 0, 0) if psd_frames is None else frame_spectra(videos, psd_frames))
        motion.append(torch.zeros(len(videos), 0) if psd_frames is None else frame_differences(videos))
        looked_at = videos[: None if most is None else max(most - BATCH_CLIPS * len(logits), 0)]
        if len(looked_at):
            x = preprocess(looked_at.to(networks.k400.device))
            features = networks.k400(x)
            logits.append(features.logits)
            pooled.append(features.pooled)
            pooled_k600.append(torch.zeros(len(x), 0) if networks.k600 is None else networks.k600(x).pooled)
    parts = {
        "logits": logits, "pooled": pooled, "pooled_k600": pooled_k600, "spectra": spectra, "motion": motion,
    }  # fmt: skip
    found = {name: torch.cat(part) for name, part in parts.items()}
    return Measured(labels=torch.full((len(found["logits"]),), -1), **found)


def biased_measures(
    networks: FeatureNetworks, real: Measured, generated: Measured, splits: int | None
) -> dict[str, tuple[Measure, Tensor, Tensor]]:
    """By name of a number, how it is measured, and the features of both sets that it is measured of (Sec. 5.1).

    FVD, FID and IS, all of which depend on how many videos there are; a Frechet distance under random weights carries
    random_i3d in its name, one of the pooled activations of Kinetics-400's I3D is fid_k400, and there is no IS of a
    random network. splits: for IS, at most the videos of a set; None: no IS.
    """
    logits, random = (real.logits, generated.logits), networks.k400.random
    distances = {
        RANDOM_LOGITS if random else "fvd": (frechet_distance, *logits),
        RANDOM_POOLED if random else "fid_k400": (frechet_distance, real.pooled, generated.pooled),
    }
    if networks.k600 is not None:
        distances["fid"] = frechet_distance, real.pooled_k600, generated.pooled_k600
    if splits is None or random:
        return distances
    return {**distances, "inception_score": (lambda _, b: inception_score(b, min(splits, len(b)))[0], *logits)}


def measures(
    networks: FeatureNetworks, real: Measured, generated: Measured, splits: int | None
) -> dict[str, tuple[Measure, Tensor, Tensor]]:
    """As biased_measures, and of the logits what compares every video with every other: KVD, precision, recall."""
    names = RANDOM_PAIRS if networks.k400.random else PAIRS
    pairs: tuple[Measure, ...] = (kernel_distance, lambda real, generated: share_inside(generated, real), share_inside)
    of_pairs = {name: (number, real.logits, generated.logits) for name, number in zip(names, pairs, strict=True)}
    return biased_measures(networks, real, generated, splits) | of_pairs


def scores(networks: FeatureNetworks, real: Measured, generated: Measured, splits: int | None) -> dict[str, float]:
    """The numbers of `measures`, and the deviation of IS over its splits."""
    numbers = {name: number(a, b) for name, (number, a, b) in measures(networks, real, generated, splits).items()}
    if splits is not None and "inception_score" in numbers:
        numbers["inception_score_deviation"] = inception_score(generated.logits, splits)[1]
    return numbers


def motion_scores(real: Measured, generated: Measured) -> dict[str, float]:
    """The mean frame difference of both sets over all steps, in grey levels; nothing for clips of one frame."""
    means = {"motion_real": real.motion, "motion_generated": generated.motion}
    return {name: motion.mean().item() for name, motion in means.items() if motion.shape[1]}

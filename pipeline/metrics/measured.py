"""Everything measured of one set of clips in one pass, and the numbers two such sets give."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from models.i3d import FEATURES
from pipeline.metrics.features import FeatureNetwork, preprocessed
from pipeline.metrics.frechet import Moments, frechet_distance
from pipeline.metrics.inception_score import InceptionScore
from pipeline.metrics.motion import Motion
from pipeline.metrics.psd import Spectra
from pipeline.workers import Workers

# What the numbers of a random I3D are called. They rank nothing but runs of this code with this seed.
RANDOM_LOGITS, RANDOM_POOLED = "random_i3d_frechet_logits", "random_i3d_frechet_pooled"
KEPT_CLIPS = 65536  # at most, whose features are kept, 373 MB: for the tables by class and by number, and the probe


@dataclass(frozen=True)
class FeatureNetworks:
    """The I3D behind IS and FVD (Kinetics-400) and the one behind FID (Kinetics-600); without weights one for both."""

    logits: FeatureNetwork
    pooled: FeatureNetwork

    @property
    def logits_name(self) -> str:
        return RANDOM_LOGITS if self.logits.random else "fvd"

    @property
    def pooled_name(self) -> str:
        return RANDOM_POOLED if self.pooled.random else "fid"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some clips of a set."""

    first: int  # the place of the first of them in the set
    clips: UInt8[Tensor, "B T 3 S S"]
    labels: Int64[Tensor, " B"]  # -1: none


class Measured(nn.Module):
    """What is kept of a set of clips: its memory does not grow with their number beyond KEPT_CLIPS.

    A module for its state dict alone: the statistics of a real set are kept and read again.
    """

    logits: Tensor
    pooled: Tensor
    labels: Tensor

    def __init__(
        self,
        networks: FeatureNetworks,
        *,
        videos: int,
        splits: int = 1,
        frames: int = 1,
        size: int = 1,
        psd_frames: Sequence[int] = (),
        psd_sets: int = 1,
    ) -> None:
        """videos: of the set. splits, psd_sets: no more than videos.

        frames, size: of a clip, where differences from frame to frame and spectra are measured.
        """
        super().__init__()
        self.networks = networks
        classes = networks.logits.network.classes
        self.logits_moments = Moments(classes)
        self.pooled_moments = Moments(FEATURES)
        self.inception = InceptionScore(classes, splits)
        self.spectra = Spectra(psd_frames, size, psd_sets)
        self.motion = Motion(frames)
        kept = min(videos, KEPT_CLIPS)
        self.register_buffer("logits", torch.zeros(kept, classes))
        self.register_buffer("pooled", torch.zeros(kept, FEATURES))
        self.register_buffer("labels", torch.zeros(kept, dtype=torch.int64))

    @property
    def count(self) -> int:
        return self.logits_moments.count

    def measure(self, batches: Iterable[Batch]) -> None:
        """Go once over the clips of the set, or over this worker's part of them and then `gather`."""
        for batch in batches:
            self.spectra.update(batch.clips, batch.first)
            self.motion.update(batch.clips)
            begin = 0
            for x in preprocessed(batch.clips, self.networks.logits.device):
                self._add(batch.first + begin, x, batch.labels[begin : begin + len(x)])
                begin += len(x)

    def _add(self, first: int, x: Float[Tensor, "B T 3 224 224"], labels: Int64[Tensor, " B"]) -> None:
        logits, pooled = self.networks.logits, self.networks.pooled
        of_logits = logits(x)
        of_pooled = of_logits if pooled is logits else pooled(x)
        self.logits_moments.update(of_logits.logits)
        self.pooled_moments.update(of_pooled.pooled)
        self.inception.update(of_logits.logits, first)
        kept = max(min(len(x), len(self.logits) - first), 0)
        self.logits[first : first + kept] = of_logits.logits[:kept]
        self.pooled[first : first + kept] = of_pooled.pooled[:kept]
        self.labels[first : first + kept] = labels[:kept]

    def gather(self, workers: Workers) -> None:
        """Take in what the other workers measured: sums, or moments."""
        for part in self.modules():
            if isinstance(part, Moments):
                part.gather(workers)
                continue
            for name, value in part.named_buffers(recurse=False):
                setattr(part, name, workers.sum(value))


def scores(real: Measured, generated: Measured, *, labelled: bool) -> dict[str, float]:
    """FVD, FID and, for data with classes, IS of the generated set (Sec. 5.1); both are measured by the same networks.

    A Frechet distance under random weights carries random_i3d in its name, and there is no IS of a random network.
    """
    networks = real.networks
    distances = {
        networks.logits_name: frechet_distance(real.logits_moments, generated.logits_moments),
        networks.pooled_name: frechet_distance(real.pooled_moments, generated.pooled_moments),
    }
    if not labelled or networks.logits.random:
        return distances
    mean, deviation = generated.inception.score()
    return {**distances, "inception_score": mean, "inception_score_deviation": deviation}


def motion_scores(real: Measured, generated: Measured) -> dict[str, float]:
    """The mean frame difference of both sets over all steps, in grey levels; nothing for clips of one frame."""
    means = {"motion_real": real.motion.by_step()[0], "motion_generated": generated.motion.by_step()[0]}
    return {name: steps.mean().item() for name, steps in means.items() if len(steps)}

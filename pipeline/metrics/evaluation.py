"""Everything measured of one set of clips in one pass, and the numbers two such sets give."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.i3d import FEATURES
from pipeline.metrics.features import FeatureNetwork, extract
from pipeline.metrics.frechet import Moments, frechet_distance
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.psd import frame_spectra

# What the numbers of a random I3D are called. They rank nothing but runs of this code with this seed.
RANDOM_LOGITS, RANDOM_POOLED = "random_i3d_frechet_logits", "random_i3d_frechet_pooled"


@dataclass(frozen=True)
class Networks:
    """The I3D behind IS and FVD (Kinetics-400) and the one behind FID (Kinetics-600); without weights one for both."""

    logits: FeatureNetwork
    pooled: FeatureNetwork


@dataclass
class Measured:
    """What is kept of a set of clips."""

    logits_moments: Moments
    pooled_moments: Moments = field(default_factory=lambda: Moments(FEATURES))
    logits: list[Float[Tensor, "N classes"]] = field(default_factory=list)
    spectra: list[Float[Tensor, "N F bins"]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.logits_moments.count


def measure(networks: Networks, clips: Iterable[UInt8[Tensor, "B T 3 H W"]], psd_frames: Sequence[int]) -> Measured:
    """Go once over the clips of a set; they may be of any number, a few at a time."""
    kept = Measured(Moments(networks.logits.network.classes))
    for some in clips:
        kept.spectra.append(frame_spectra(some, psd_frames))
        for features in extract(networks.logits, some):
            kept.logits.append(features.logits)
            kept.logits_moments.update(features.logits)
            if networks.pooled is networks.logits:
                kept.pooled_moments.update(features.pooled)
        if networks.pooled is not networks.logits:
            for features in extract(networks.pooled, some):
                kept.pooled_moments.update(features.pooled)
    return kept


def scores(networks: Networks, real: Measured, generated: Measured, *, labelled: bool, splits: int) -> dict[str, float]:
    """FVD, FID and, for data with classes, IS of the generated set (Sec. 5.1).

    A Frechet distance under random weights carries random_i3d in its name, and there is no IS of a random network.
    """
    logits_name = RANDOM_LOGITS if networks.logits.random else "fvd"
    pooled_name = RANDOM_POOLED if networks.pooled.random else "fid"
    found = {
        logits_name: frechet_distance(real.logits_moments, generated.logits_moments),
        pooled_name: frechet_distance(real.pooled_moments, generated.pooled_moments),
    }
    if labelled and not networks.logits.random:
        mean, deviation = inception_score(torch.cat(generated.logits), splits)
        found |= {"inception_score": mean, "inception_score_deviation": deviation}
    return found

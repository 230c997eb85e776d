"""What a number was measured on. It is printed beside every number: with another protocol they do not compare."""

from dataclasses import asdict, dataclass
from typing import Any

from models.i3d import MIN_FRAMES
from pipeline.metrics.measured import FeatureNetworks
from pipeline.metrics.pairwise import NEIGHBOURS


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One setting: the sets, their clips, and the networks that look at them."""

    real_split: str  # the split that the real clips come from
    real_videos: int
    generated_videos: int
    frames: int  # of a clip
    size: int  # pixels, before they are resized for the I3D
    frame_step: int | None  # where it is known, native frames of a source video from one frame of a clip to the next
    fps: float | tuple[float, float] | None  # frames a second of a clip, or the fewest and the most, where known
    clips_per_video: int = 1
    start: str  # how the start of a clip is chosen
    sigma: float | None  # of the noise that the generated videos come from, where it is known
    resize: str = "224x224, bilinear, align_corners=False, no antialias, [-1, 1]"  # of the I3D's input
    played: str  # "once", or how a clip too short for the I3D is prolonged
    logits_network: str  # weights of the I3D behind IS, FVD and fid_k400
    logits_sha256: str | None
    pooled_network: str | None  # … behind FID, if any
    pooled_sha256: str | None
    precision: str  # of the networks' arithmetic
    covariance: str = "N - 1, float64"
    kernel: str = "(x.y / dimensions + 1)^3 of logits, unbiased"  # of KVD
    neighbours: str = f"{NEIGHBOURS}, by the distance of logits"  # of precision and recall
    infinity: str = (
        "a line in 1/N, of an eighth of the videos to all (to half where sides differ), of more than dimensions"
    )
    splits: int | None  # of the generated set, for the inception score, if any; videos are dealt out in turn
    psd_frames: tuple[int, ...] = ()  # from 1
    psd_sets: int = 0
    frame_videos: tuple[int, ...] = ()  # real and generated ones of spectra and motion, which need no network
    seed: int | None = None  # of the choice of videos and starts
    pyramid: str  # digest of the store of the real videos
    samples: str  # … of the generated ones


def protocol(networks: FeatureNetworks, *, frames: int, **chosen: Any) -> dict[str, Any]:
    """A protocol's fields, those that follow from the networks and the number of frames filled in."""
    k400, k600 = networks.k400, networks.k600
    setting = Protocol(
        frames=frames,
        played="once" if frames >= MIN_FRAMES else f"forth and back until there are {MIN_FRAMES} frames",
        logits_network=k400.weights,
        logits_sha256=k400.sha256,
        pooled_network=k600 and k600.weights,
        pooled_sha256=k600 and k600.sha256,
        precision=k400.precision,
        **chosen,
    )
    return asdict(setting)

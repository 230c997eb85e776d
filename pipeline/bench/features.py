"""`hvg bench features`: what it costs to measure clips, beside the bare network on the same clips, in one run.

Wall time of this machine's processor, or of its GPU.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pipeline.bench.rounds import interleaved, medians
from pipeline.metrics.features import BATCH_CLIPS, FeatureNetwork, preprocessed, random_i3d
from pipeline.metrics.measured import Batch, FeatureNetworks, Measured
from pipeline.system.machine import cores, cpu_name

BARE, OURS, ROUNDED = "network alone, preprocessed clips", "measured as by evaluate", "the same in bfloat16"


def bench_features(*, clips: int, frames: int, size: int, rounds: int) -> dict[str, Any]:
    """Measure random clips of `frames` frames, size x size, `rounds` times in each way.

    Returns seconds a clip and their ratio to the bare network, by way, and how far features in bfloat16 are off: the
    norm of the difference by that of the features.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact = random_i3d(0, device)
    rounded = replace(exact, precision="bfloat16")
    draw = torch.Generator().manual_seed(0)
    videos = torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=draw)
    ready = list(preprocessed(videos, device))
    measured: dict[str, Measured] = {}

    def measure(name: str, network: FeatureNetwork) -> None:
        measured[name] = _measured(network, videos)  # ends with features on the CPU: nothing is left to wait for

    ways: dict[str, Callable[[], Any]] = {
        BARE: lambda: [exact(part) for part in ready],
        OURS: lambda: measure(OURS, exact),
        ROUNDED: lambda: measure(ROUNDED, rounded),
    }
    seconds = interleaved(ways, time.perf_counter, rounds=rounds, desc="bench features")
    errors = {
        f"bfloat16_error_of_{name}": _error(*(getattr(measured[way], name) for way in (OURS, ROUNDED)))
        for name in ("pooled", "logits")
    }
    return {
        "seconds_a_clip": medians(seconds / clips),
        "to_network_alone": medians(seconds, BARE),
        "clips": f"{clips} of {frames}/{size}x{size}",
        "rounds": rounds,
        **errors,
        "machine": f"{torch.cuda.get_device_name() if device.type == 'cuda' else cpu_name()}, "
        f"{cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def _measured(network: FeatureNetwork, videos: torch.Tensor) -> Measured:
    """All that an evaluation measures of a set: features, their moments, the spectra of two frames, and motion."""
    networks, (count, frames), size = FeatureNetworks(network, network), videos.shape[:2], videos.shape[-1]
    measured = Measured(networks, videos=count, frames=frames, size=size, psd_frames=(1, frames))
    labels = torch.full((count,), -1)
    parts = ((i, slice(i, i + BATCH_CLIPS)) for i in range(0, count, BATCH_CLIPS))
    measured.measure(Batch(first=i, clips=videos[part], labels=labels[part]) for i, part in parts)
    return measured


def _error(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    return ((exact - rounded).norm() / exact.norm()).item()

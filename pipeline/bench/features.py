"""`hvg bench features`: what it costs to measure clips, beside the bare network on the same clips, in one run.

Wall time of this machine's processor, or of its GPU. Rounds are interleaved and their median is taken.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pipeline.metrics.features import BATCH_CLIPS, FeatureNetwork, preprocessed, random_i3d
from pipeline.metrics.measured import Batch, FeatureNetworks, Measured
from pipeline.progress import progress
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
    ways: dict[str, Callable[[], Any]] = {
        BARE: lambda: [exact(part) for part in ready],
        OURS: lambda: _measured(exact, videos),
        ROUNDED: lambda: _measured(rounded, videos),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    with progress(total=(rounds + 1) * len(ways), desc="bench features", unit="runs") as bar:
        for turn in range(rounds + 1):
            for name, way in ways.items():
                begun = time.perf_counter()
                found[name] = way()  # ends with features on the CPU: nothing is left to wait for
                if turn:  # the first warms up
                    seconds[name].append((time.perf_counter() - begun) / clips)
                bar.update()
    return {
        "clips": f"{clips} of {frames}/{size}x{size}",
        "rounds": rounds,
        "seconds_a_clip": {name: statistics.median(taken) for name, taken in seconds.items()},
        "to_network_alone": {
            name: statistics.median(a / b for a, b in zip(taken, seconds[BARE], strict=True))
            for name, taken in seconds.items()
        },
        "bfloat16_error": {
            name: _error(getattr(found[OURS], name), getattr(found[ROUNDED], name)) for name in ("pooled", "logits")
        },
        "machine": f"{torch.cuda.get_device_name() if device.type == 'cuda' else cpu_name()}, "
        f"{cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def render(found: dict[str, Any]) -> str:
    """The measurements as a table for people."""
    lines = [f"{found['clips']}; median of {found['rounds']} rounds", "", f"{'':36}{'s a clip':>10}{'to bare':>10}"]
    for name, seconds in found["seconds_a_clip"].items():
        lines.append(f"{name:36}{seconds:10.3f}{found['to_network_alone'][name]:10.3f}")
    errors = ", ".join(f"{error:.1%} in {name}" for name, error in found["bfloat16_error"].items())
    return "\n".join([*lines, "", f"bfloat16 is off by {errors} (random weights)", found["machine"]])


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

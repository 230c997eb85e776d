"""`hvg bench features`: what it costs to measure clips, beside the bare network on the same clips, in one run.

Wall time of this machine's processor, or of its GPU.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pipeline.bench.rounds import interleaved, medians
from pipeline.metrics.features import BATCH_CLIPS, FeatureNetwork, preprocess, random_i3d
from pipeline.metrics.measured import FeatureNetworks, Measured, measure
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
    ready, stored = [preprocess(part.to(device)) for part in videos.split(BATCH_CLIPS)], videos.movedim(2, -1).numpy()
    measured: dict[str, Measured] = {}

    def as_by_evaluate(name: str, network: FeatureNetwork) -> None:
        # All of a set, with spectra and motion. It ends with features on the CPU: nothing is left to wait for.
        measured[name] = measure(FeatureNetworks(network), iter(stored), (1, frames))

    ways: dict[str, Callable[[], Any]] = {
        BARE: lambda: [exact(part) for part in ready],
        OURS: lambda: as_by_evaluate(OURS, exact),
        ROUNDED: lambda: as_by_evaluate(ROUNDED, rounded),
    }
    seconds = interleaved(ways, time.perf_counter, rounds=rounds, desc="bench features")
    exactly, roughly = vars(measured[OURS]), vars(measured[ROUNDED])
    return {
        "seconds_a_clip": medians(seconds / clips),
        "to_network_alone": medians(seconds, BARE),
        "clips": f"{clips} of {frames}/{size}x{size}",
        "rounds": rounds,
        **{
            f"bfloat16_error_of_{name}": ((exactly[name] - roughly[name]).norm() / exactly[name].norm()).item()
            for name in ("pooled", "logits")
        },
        "machine": f"{torch.cuda.get_device_name() if device.type == 'cuda' else cpu_name()}, "
        f"{cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }

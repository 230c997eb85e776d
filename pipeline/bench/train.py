"""`hvg bench train`: what an iteration of training costs, beside a plain PyTorch version and a matrix product."""

import time
from collections.abc import Callable
from typing import Any

import torch

from pipeline.bench.clips import random_clips
from pipeline.bench.plain import PlainTraining, copy_weights
from pipeline.bench.rounds import interleaved, medians
from pipeline.params import Params
from pipeline.project.describe import describe
from pipeline.system.machine import cores, cpu_name
from pipeline.training.step import Networks
from pipeline.training.watch import memory_gib
from pipeline.workers import Workers

OURS, PLAIN, PRODUCT = "training's step", "plain PyTorch", "matrix product"
SIDE = 2048  # of the matrices


def bench_train(params: Params, level: int, *, batch: int | None, rounds: int) -> dict[str, Any]:
    """Train a level on random clips, an iteration a round in each way.

    batch: clips an update; None: the level's own. Where data.classes is null, as many as found, it is trained without.

    Returns by way seconds an iteration, how many times as fast as the plain way it is, and the plain formulation's
    operations a second, also as a share of a matrix product's; and the peak of memory of all ways. On a CPU seconds are
    of CPU time.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, classes = params.of_level(level).training, params.data.classes or 0
    config, clips = params.level(level, classes), batch or training.batch
    ours = Networks(config, training, seed=0, workers=Workers(device=device))
    plain = PlainTraining(
        config, lr_generator=training.lr_generator, lr_discriminator=training.lr_discriminator, betas=training.betas
    )
    for mine, other in ((ours.generator, plain.generator), (ours.discriminators, plain.discriminators)):
        copy_weights(mine, other.to(device))
    real, fake = (random_clips(config, params.window(level), clips, device, real=real) for real in (True, False))
    left, right = torch.rand(2, SIDE, SIDE, device=device)

    def iteration(way: Networks | PlainTraining) -> None:
        for _ in range(training.discriminator_steps):
            way.discriminator_update(real, fake)
        way.generator_update(fake)

    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: iteration(ours),
        PLAIN: lambda: iteration(plain),
        PRODUCT: lambda: [left @ right for _ in range(8)],
    }
    seconds = interleaved(ways, _clock(device), rounds=rounds, desc=f"bench train level {level}")
    flop = describe(params)["levels"][str(level)]["iteration_tflop"] * 1e12 * clips
    rates = {OURS: flop / seconds[OURS], PLAIN: flop / seconds[PLAIN], PRODUCT: 8 * 2 * SIDE**3 / seconds[PRODUCT]}
    share = {way: (rate / rates[PRODUCT]).median() for way, rate in rates.items()}
    return {
        "seconds": medians(seconds),
        "times_as_fast_as_plain": {way: (seconds[PLAIN] / seconds[way]).median() for way in (OURS, PLAIN)},
        "gflop_a_second": {way: rate.median() / 1e9 for way, rate in rates.items()},
        "of_a_matrix_product": share,
        "clips": f"{clips} of {config.view.size} pixels, {params.window(level) * config.factor} frames",
        "peak_memory_gib": memory_gib(device),
        "rounds": rounds,
        "machine": f"{torch.cuda.get_device_name() if device.type == 'cuda' else cpu_name()}, "
        f"{cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished

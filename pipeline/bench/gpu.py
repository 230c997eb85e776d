"""What training does on a GPU: whether it computes what a CPU does, how fast, in how much memory.

    hvg bench gpu --export levels.json             here: the levels of the paper's recipes, as plain values
    python -m pipeline.bench.gpu levels.json out.json    on a machine with a GPU, torch, einops and jaxtyping alone

It runs training's own step (`pipeline.training.step`) on clips of noise. What there is no time for is left out of the
result, which is written anew after every measurement.
"""

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View
from pipeline.bench.clips import random_clips
from pipeline.bench.plain import PlainTraining
from pipeline.training.step import Networks
from pipeline.workers import Workers

SECONDS = 420.0  # after which no step begins, but for the comparison
COMPARED_CLIPS, COMPARED_ITERATIONS = 3, 3
TIMED_ITERATIONS = 3
CLIPS = (2, 8, 32, 128)  # an update
LONGEST_SECONDS = 6.0  # of an iteration: batches that would take longer are left out
SIDE = 8192  # of the matrices whose product is the rate
PLAIN = "plain PyTorch, "
WAYS: dict[str, dict[str, Any]] = {  # what is most asked for first, since time may end
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, channels last": {"precision": "bfloat16", "channels_last": True},
    f"{PLAIN}bfloat16": {"precision": "bfloat16"},
    "bfloat16, recompute": {"precision": "bfloat16", "recompute": True},
    "tf32": {"precision": "tf32"},
    f"{PLAIN}tf32": {"precision": "tf32"},
    "float32": {"precision": "float32"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}
COMPARED = ("float32", "tf32", "bfloat16", "bfloat16, recompute", "bfloat16, channels last")

Level = dict[str, Any]  # of the exported file: config, training, window, iteration_tflop; frames: lengths to measure


def run(levels: dict[str, Level], out: Path, seconds: float) -> None:
    """Measure on this machine's GPU, or where there is none on its CPU, into the file `out`."""

    def note(found: dict[str, Any], part: str) -> None:
        out.write_text(json.dumps(found, indent=2) + "\n")
        of = found[part]
        sys.stderr.write(f"{part}: {of[-1] if isinstance(of, list) else list(of.items())[-1]}\n")

    measure(levels, torch.device("cuda" if torch.cuda.is_available() else "cpu"), seconds, note)


def measure(levels: dict[str, Level], device: torch.device, seconds: float, note: Callable[[Any, str], None]) -> None:
    """Compare, time and profile the levels, telling `note` all that is known after each step, and which part grew.

    No step begins after `seconds`, but for the comparison and the search for waits.
    """
    ends = time.monotonic() + seconds
    found: dict[str, Any] = {"machine": _machine(device)}
    found["tflop_a_second"] = rates = _rates(device)
    note(found, "tflop_a_second")
    trained = {name: level for name, level in levels.items() if "frames" not in level}
    for name, level in trained.items():
        found.setdefault("off_by", {})[name] = compare(level, device)
        note(found, "off_by")
    for name, level in trained.items():
        with _as_memory_allows():
            found.setdefault("waits_for_the_gpu", {})[name] = waits(level, device)
            note(found, "waits_for_the_gpu")
    for name, level in levels.items():
        for row in by_length(level, device, ends) if "frames" in level else ():
            found.setdefault("memory_by_length", []).append({"level": name, **row})
            note(found, "memory_by_length")
    for way, switches in WAYS.items():
        for name, level in trained.items():
            for row in timed(level, way, device, ends):
                row["of_a_matrix_product"] = row["tflop_a_second"] / rates[switches["precision"]]
                found.setdefault("iterations", []).append({"way": way, "level": name, **row})
                note(found, "iterations")
            if way == "bfloat16" and time.monotonic() < ends:
                with _as_memory_allows():
                    found.setdefault("kernels", {})[name] = kernels(level, device)
                    note(found, "kernels")


@contextmanager
def _as_memory_allows() -> Iterator[None]:
    """What takes more of the GPU's memory than there is is left out."""
    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()


def compare(level: Level, device: torch.device) -> dict[str, dict[str, float]]:
    """By precision, how far the losses and gradients of a narrow version of a level are from a CPU's in float64.

    Losses: the largest difference. Gradients: the norm of the difference over the norm, of each network.
    """
    config = narrow(level_config(level["config"]))
    truth = _updates(config, level, torch.device("cpu"), {"precision": "float32"}, torch.float64)
    off = {}
    for name, on, switches in (
        ("float32 on the CPU", torch.device("cpu"), WAYS["float32"]),
        *((way, device, WAYS[way]) for way in COMPARED),
    ):
        losses, gradients = _updates(config, level, on, switches, torch.float32)
        off[name] = {
            "losses": (losses - truth[0]).abs().max().item(),
            **{k: ((g - truth[1][k]).norm() / truth[1][k].norm()).item() for k, g in gradients.items()},
        }
    return off


def _updates(
    config: LevelConfig, level: Level, device: torch.device, switches: dict[str, Any], dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of some iterations, and the gradients of each network in the first."""
    cpu = torch.device("cpu")
    training = _training(level, COMPARED_CLIPS, switches)
    networks = Networks(config, training, seed=0, workers=Workers(device=device))
    for network in (networks.generator, networks.discriminators):
        network.to(dtype)
    losses, gradients = [], {}
    for i in range(COMPARED_ITERATIONS):
        clips = (random_clips(config, level["window"], COMPARED_CLIPS, cpu, real=r, seed=i) for r in (True, False))
        real, fake = (of.cast(dtype) for of in clips)
        losses.append(networks.discriminator_update(real, fake)["loss_discriminator"])
        gradients.setdefault("gradients of D", _gradients(networks.discriminators))
        losses.append(networks.generator_update(fake)["loss_generator"])
        gradients.setdefault("gradients of G", _gradients(networks.generator))
    return torch.stack(losses).double().cpu(), gradients


def _gradients(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double().cpu() for p in network.parameters() if p.grad is not None])


def waits(level: Level, device: torch.device) -> list[str]:
    """Where an iteration in bfloat16 waits for the GPU: file and line, once for each time."""
    if device.type != "cuda":
        return []
    networks, *clips = _made(level_config(level["config"]), level, 2, "bfloat16", device)
    _iteration(networks, level, *clips)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        _iteration(networks, level, *clips)
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]


def by_length(level: Level, device: torch.device, ends: float) -> Iterator[dict[str, Any]]:
    """The peak of memory of an iteration of one clip, by frames (Fig. 5): its own, or those of its condition.

    Lengths that memory does not hold are left out, and those that time does not.
    """
    config = level_config(level["config"])
    for frames in level["frames"]:
        long = config if config.condition else replace(config, view=replace(config.view, frames=frames))
        for way in ("float32", "bfloat16", "bfloat16, recompute"):
            peak = None
            if time.monotonic() < ends:
                with _as_memory_allows():
                    _, peak = _iterations(long, {**level, "window": frames}, 1, way, device, 1)
            if peak is not None:
                yield {"frames": frames, "way": way, "peak_gib": peak}


def timed(level: Level, way: str, device: torch.device, ends: float) -> Iterator[dict[str, Any]]:
    """Seconds and memory of an iteration, over batches that grow until memory or time is at its end."""
    config, seconds, before = level_config(level["config"]), 0.0, 1
    for clips in CLIPS:
        if time.monotonic() > ends or seconds * clips / before > LONGEST_SECONDS:
            return
        try:
            seconds, peak = _iterations(config, level, clips, way, device, TIMED_ITERATIONS)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return
        tflop = level["iteration_tflop"] * clips / seconds
        yield {"clips": clips, "seconds": seconds, "peak_gib": peak, "tflop_a_second": tflop}
        before = clips


def _iterations(
    config: LevelConfig, level: Level, clips: int, way: str, device: torch.device, count: int
) -> tuple[float, float]:
    """Median of the seconds of `count` iterations after a first one, and the peak of memory in GiB; 0 on a CPU."""
    networks, real, fake = _made(config, level, clips, way, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(1 + count):
        began = _now(device)
        _iteration(networks, level, real, fake)
        seconds.append(_now(device) - began)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return sorted(seconds[1:])[count // 2], memory


def _made(config: LevelConfig, level: Level, clips: int, way: str, device: torch.device) -> tuple[Any, Any, Any]:
    """Networks, real clips, and what fake ones are made from."""
    training = _training(level, clips, WAYS[way])
    with _quick_weights(device):
        if way.startswith(PLAIN):
            networks = _Plain(config, training, device)
        else:
            networks = Networks(config, training, seed=0, workers=Workers(device=device))
    real, fake = (random_clips(config, level["window"], clips, device, real=real) for real in (True, False))
    return networks, real, fake


@contextmanager
def _quick_weights(device: torch.device) -> Iterator[None]:
    """Weights of the right size drawn on the device: orthogonal ones of a full-size level take a CPU half a minute."""

    def normal(weight: torch.Tensor) -> torch.Tensor:
        return nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))

    with torch.device(device), mock.patch.object(nn.init, "orthogonal_", normal):
        yield


class _Plain:
    """The plain program's updates, under autocast or with TF32 as a precision says."""

    def __init__(self, config: LevelConfig, training: Any, device: torch.device) -> None:
        rates = {"lr_generator": training.lr_generator, "lr_discriminator": training.lr_discriminator}
        self._training = PlainTraining(config, **rates, betas=training.betas)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = training.precision == "tf32"
        half = training.precision == "bfloat16"
        self._autocast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=half)

    def discriminator_update(self, real: Any, fake: Any) -> None:
        with self._autocast():
            self._training.discriminator_update(real, fake)

    def generator_update(self, fake: Any) -> None:
        with self._autocast():
            self._training.generator_update(fake)


def _iteration(networks: Any, level: Level, real: Any, fake: Any) -> None:
    for _ in range(level["training"]["discriminator_steps"]):
        networks.discriminator_update(real, fake)
    networks.generator_update(fake)


def kernels(level: Level, device: torch.device, clips: int = 4) -> list[dict[str, Any]]:
    """The sixteen kernels (on a CPU: operators) that take longest in an iteration in bfloat16: names cut short,
    milliseconds, and the share in all kernels' time.
    """
    networks, real, fake = _made(level_config(level["config"]), level, clips, "bfloat16", device)
    _iteration(networks, level, real, fake)
    _now(device)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        _iteration(networks, level, real, fake)
        _now(device)
    of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: -getattr(event, of))
    total = sum(getattr(event, of) for event in events)
    return [
        {"name": event.key[:120], "milliseconds": getattr(event, of) / 1e3, "share": getattr(event, of) / total}
        for event in events[:16]
    ]


def level_config(values: dict[str, Any]) -> LevelConfig:
    """A level's configuration, of `dataclasses.asdict` by way of JSON."""
    parts: dict[str, dict[str, Any]] = {}
    for key, part in values.items():
        if isinstance(part, dict):
            parts[key] = {name: tuple(v) if isinstance(v, list) else v for name, v in part.items()}
    return LevelConfig(
        level=values["level"],
        classes=values["classes"],
        view=View(**parts["view"]),
        condition=View(**parts["condition"]) if values["condition"] else None,
        generator=GeneratorConfig(**parts["generator"]),
        discriminators=DiscriminatorConfig(**parts["discriminators"]),
    )


def narrow(config: LevelConfig) -> LevelConfig:
    """The same layers, few channels wide: a CPU has it done in seconds."""
    g, d = config.generator, config.discriminators
    return replace(config, generator=replace(g, channels=4), discriminators=replace(d, channels=4))


def _training(level: Level, batch: int, switches: dict[str, Any]) -> Any:
    return SimpleNamespace(**{**level["training"], "batch": batch, "accumulate": 1, **switches})


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _rates(device: torch.device) -> dict[str, float]:
    """TFLOP/s of a matrix product by precision."""
    side = SIDE if device.type == "cuda" else SIDE // 16
    rates = {}
    for precision, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = torch.rand(2, side, side, device=device).to(dtype)
        seconds = []
        for _ in range(4):
            began = _now(device)
            torch.mm(a, b)
            seconds.append(_now(device) - began)
        rates[precision] = 2 * side**3 / min(seconds) / 1e12
    return rates


def _machine(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30 if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    run(json.loads(given.levels.read_text()), given.out, given.seconds)


if __name__ == "__main__":
    main()

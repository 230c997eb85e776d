"""Two workers over gloo compute what one does: exactly in float64, in float32 as far as rounding lets either.

In float32 they cannot agree to the bit. oneDNN's 1x1 convolutions and MKL's products add in another order for half a
batch than for the whole, on every kind of processor, and gradients of weights are two sums in place of one. That is
1e-7 at first; a ReLU that flips, or Adam on a gradient near zero, makes 1e-3 of it in 20 iterations. So long runs are
compared in float64, and float32 with float64 from the same weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from models.norm import ConditionalBatchNorm
from models.unroll import recalibrate
from pipeline.params import TrainingParams
from pipeline.training.batches import Batches
from pipeline.training.clips import Clips
from pipeline.training.step import Networks
from pipeline.workers import Workers
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import TRAINING, batches, dummy, precision, train
from tests.pipeline.training.together import Job, results

pytestmark = pytest.mark.timeout(600)  # another interpreter, and 20 iterations of each case twice over

CONFIGS = {1: FIRST, 2: SECOND}
LONG = replace(TRAINING, iterations=20, log_every=5, checkpoint_every=20)
SHORT = replace(LONG, iterations=4, checkpoint_every=4)
SWITCHED = replace(LONG, accumulate=2, recompute=True, channels_last=True, fused=True)
CASES: dict[str, tuple[int, TrainingParams]] = {  # level, parameters of the two workers
    "level 1": (1, LONG),
    "level 2": (2, LONG),
    "level 2, switches on": (2, SWITCHED),
}
STILL = replace(TRAINING, lr_generator=0.0, lr_discriminator=0.0)  # every update from the same weights
TERMS = {level: 2 * 4 * 3 * config.view.size**2 for level, config in CONFIGS.items()}  # pixels: D's, real and fake
KERNELS = {  # by what ATen calls them; each needs what the processor must have for those before it
    kernels: {"ATEN_CPU_CAPABILITY": kernels.lower(), "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}
    for kernels, onednn, mkl in (
        ("DEFAULT", "SSE41", "SSE4_2"),
        ("AVX2", "AVX2", "AVX2"),
        ("AVX512", "AVX512_CORE", "AVX512"),
    )
}


def trained(level: int, workers: Workers, folder: Path, params: TrainingParams) -> dict[str, Any]:
    """What a run in float64 ends with: parameters, singular vectors, history, and statistics recalibrated after it."""
    with precision(torch.float64):
        networks, source = Networks(CONFIGS[level], params, seed=0, workers=workers), batches(level)
        clips = source._clips
        source._clips = lambda stream, update, positions, clip: clips(stream, update, positions, clip).cast(
            torch.float64
        )
        history = train(networks, source, params, workers, folder).history
        return {**state(networks), "history": history, "statistics": statistics(networks, source, workers)}


def state(networks: Networks) -> dict[str, dict[str, Tensor]]:
    both = {"G": networks.generator, "D": networks.discriminators}
    return {
        "parameters": {f"{k}.{name}": p.detach() for k, n in both.items() for name, p in n.named_parameters()},
        "vectors": {f"{k}.{name}": b for k, n in both.items() for name, b in n.named_buffers()},
    }


def statistics(networks: Networks, source: Batches, workers: Workers) -> dict[str, Tensor]:
    dtype = networks.generator.last_conv.weight.dtype
    clips = [source.fake_clips(100 + i, workers.positions(4)).cast(dtype) for i in range(2)]
    return recalibrate(networks.generator, map(dummy, clips))


def updated(level: int, workers: Workers, dtype: torch.dtype) -> dict[str, Tensor]:
    """Losses, gradients, singular vectors and statistics of an update each of D and G, with weights of float32."""
    networks, source = Networks(CONFIGS[level], STILL, seed=57, workers=workers), batches(level)
    both = {"D": networks.discriminators, "G": networks.generator}
    if dtype != torch.float32:
        for network in both.values():
            network.to(dtype)

    def clips(make: Callable[[int, range], Clips], update: int) -> Clips:
        return make(update, workers.positions(4)).cast(dtype)

    metrics = networks.discriminator_update(clips(source.real_clips, 0), clips(source.fake_clips, 0))
    found = {f"D.{name}.grad": p.grad for name, p in both["D"].named_parameters() if p.grad is not None}
    metrics |= networks.generator_update(clips(source.fake_clips, 1))
    found |= {f"G.{name}.grad": p.grad for name, p in both["G"].named_parameters() if p.grad is not None}
    losses = [name for name in metrics if not name.startswith("accuracy")]
    found |= {name: workers.mean(metrics[name].detach()) for name in losses}
    return {**found, **state(networks)["vectors"], **statistics(networks, source, workers)}


def rounded(workers: Workers, folder: Path) -> dict[str, Any]:
    del folder
    return {
        "kernels": torch.backends.cpu.get_cpu_capability(),
        **{str(level): updated(level, workers, torch.float32) for level in CONFIGS},
    }


def off_by(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).norm().item()


def truth(workers: Workers, folder: Path) -> dict[str, Any]:
    """By level what `updated` finds in float64, and how far off float32 may be from each of it.

    A float32 sum of n terms is off by at most 4 sqrt(n) 2^-24 of the sum of their sizes, but once in 1500 (Higham and
    Mary, SIAM J. Sci. Comput. 41, 2019, with lambda = 4); no sum has more than TERMS. What such an error in every
    module's output makes of the results is measured: the furthest of four draws.
    """
    del folder
    found = {}
    for level, terms in TERMS.items():
        size = 4 * terms**0.5 * 2**-24
        exact, drawn = updated(level, workers, torch.float64), []
        for seed in range(4):
            with noise(size, seed):
                drawn.append(updated(level, workers, torch.float64))
        bounds = {n: size * v.norm().item() + max(off_by(d[n], v) for d in drawn) for n, v in exact.items()}
        found[str(level)] = {"exact": exact, "bounds": bounds}
    return found


@contextmanager
def noise(size: float, seed: int) -> Iterator[None]:
    """What any module gives is off by up to `size` of itself, each value by itself and those of a sample alike.

    The gradients that flow back through it are off likewise: a sample's as a whole, since they may cancel another's.
    """
    draw = torch.Generator().manual_seed(seed)

    def off(module: torch.nn.Module, args: Any, out: Any) -> Any:
        if not isinstance(out, Tensor):
            return None
        shapes = (len(out), *[1] * (out.ndim - 1)), out.shape
        return out * (1 + size * sum(2 * torch.rand(shape, generator=draw).to(out) - 1 for shape in shapes))

    hook = register_module_forward_hook(off)
    try:
        yield
    finally:
        hook.remove()


def finite_differences(workers: Workers, folder: Path) -> tuple[Tensor, Tensor]:
    """Of the sum of both workers' losses by each value of one worker's batch, then the other's: (autograd, by hand)."""
    del folder
    torch.manual_seed(workers.rank)
    norm, z = ConditionalBatchNorm(2, 3).double(), torch.zeros(2, 3, dtype=torch.float64)
    x = torch.randn(2, 2, 2, 2, 2, dtype=torch.float64)
    along = torch.randn_like(x)

    def loss(value: Tensor) -> Tensor:
        return (norm(value, z) * along).sum()

    moved = x.clone().requires_grad_()
    loss(moved).backward()
    assert moved.grad is not None
    by_hand = torch.zeros(2, x.numel(), dtype=torch.float64)
    by_autograd = torch.zeros_like(by_hand)
    by_autograd[workers.rank] = moved.grad.flatten()
    with torch.no_grad():
        for owner in range(2):  # both take part in every pass: each has the other's values in its moments
            for i in range(x.numel()):
                ends = []
                for step in (1e-6, -1e-6):
                    value = x.clone()
                    value.view(-1)[i] += step if workers.rank == owner else 0.0
                    total = loss(value)
                    dist.all_reduce(total)
                    ends.append(total)
                by_hand[owner, i] = (ends[0] - ends[1]) / 2e-6
    dist.all_reduce(by_autograd)
    return by_autograd, by_hand


def every_case(workers: Workers, folder: Path) -> dict[str, Any]:
    return {case: trained(level, workers, folder / case, params) for case, (level, params) in CASES.items()}


def plain_levels(workers: Workers, folder: Path) -> dict[str, Any]:
    return {str(level): trained(level, workers, folder / str(level), LONG) for level in CONFIGS}


def compiled(workers: Workers, folder: Path) -> dict[str, Any]:
    """With graphs captured and differentiated ahead of time, and no code generated: test_switches compiles that."""
    with patch.object(torch, "compile", partial(torch.compile, backend="aot_eager")):
        return trained(2, workers, folder, replace(SHORT, compile=True))


def not_compiled(workers: Workers, folder: Path) -> dict[str, Any]:
    return trained(2, workers, folder, SHORT)


def here() -> list[str]:
    """The kinds of kernels that this processor runs."""
    best, kinds = torch.backends.cpu.get_cpu_capability(), list(KERNELS)
    return kinds[: kinds.index(best) + 1] if best in kinds else []


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    jobs = {
        "one": Job(1, plain_levels),
        "two": Job(2, every_case),
        "gradients": Job(2, finite_differences),
        "truth": Job(1, truth),
    }
    for kernels in here():
        jobs |= {f"{kernels} {count}": Job(count, rounded, KERNELS[kernels]) for count in (1, 2)}
    return results(jobs, tmp_path_factory.mktemp("ran"))


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for row, other in zip(ours["history"], theirs["history"], strict=True):
        assert row == pytest.approx(other, rel=1e-9, abs=1e-9)
    # Orthogonal weights begin with singular values that are all alike: rounding turns a vector, not sigma.
    # Statistics are float32 themselves.
    for part, rtol, atol in (("parameters", 0, 1e-9), ("vectors", 0, 1e-8), ("statistics", 1e-5, 1e-6)):
        assert ours[part].keys() == theirs[part].keys()
        for name, value in ours[part].items():
            assert torch.allclose(value, theirs[part][name], rtol=rtol, atol=atol), name


@pytest.mark.parametrize("case", CASES)
def test_two_workers_are_one(case, ran):
    same(ran["one"][str(CASES[case][0])], ran["two"][case])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kernels", KERNELS)
def test_float32_is_off_by_rounding(kernels, workers, ran):
    if kernels not in here():
        pytest.skip(f"this processor has no {kernels} kernels, or ATEN_CPU_CAPABILITY forbids them")
    got = ran[f"{kernels} {workers}"]
    assert got["kernels"] == kernels
    for level, true in ran["truth"].items():
        assert got[level].keys() == true["exact"].keys()
        for name, value in true["exact"].items():
            bound = true["bounds"][name]
            assert bound < 1e-3 * value.norm(), f"a ReLU near zero: this seed judges nothing ({name})"
            assert off_by(got[level][name], value) <= bound, name


def test_synchronous_batch_norm_against_finite_differences(ran):
    by_autograd, by_hand = ran["gradients"]
    assert by_hand.abs().max() > 0.1
    assert torch.allclose(by_autograd, by_hand, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_compiled_workers_are_one_that_is_not(tmp_path):
    got = results({"two": Job(2, compiled), "one": Job(1, not_compiled)}, tmp_path)
    same(got["one"], got["two"])

"""Two workers over gloo compute what one does: losses, weights, statistics and gradients, to float rounding."""

import os
import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from models.layers import ConditionalBatchNorm
from models.unroll import recalibrate
from pipeline.params import TrainingParams
from pipeline.training.batches import Clips
from pipeline.training.distributed import Workers, workers
from pipeline.training.loop import train
from pipeline.training.step import Networks
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, dummy

pytestmark = pytest.mark.timeout(600)  # two more interpreters, and 20 iterations of each case three times over

LONG = replace(TRAINING, iterations=20, log_every=5, checkpoint_every=20)
SHORT = replace(LONG, iterations=4, checkpoint_every=4)
SWITCHED = replace(LONG, accumulate=2, recompute=True, channels_last=True, fused=True)
CASES: dict[str, tuple[int, torch.dtype, TrainingParams]] = {  # level, precision, parameters of the two workers
    "level 1": (1, torch.float32, LONG),
    "level 2": (2, torch.float32, LONG),
    "level 1 in float64": (1, torch.float64, LONG),
    "level 2 in float64": (2, torch.float64, LONG),
    "level 2 in float64, switches on": (2, torch.float64, SWITCHED),
}


@contextmanager
def precision(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(case: str, us: Workers, folder: Path, params: TrainingParams) -> dict[str, Any]:
    """What a training run ends with: parameters, singular vectors, history, and statistics recalibrated after it."""
    level, dtype, _ = CASES[case]
    with precision(dtype):
        networks, source = Networks({1: FIRST, 2: SECOND}[level], params, seed=0, workers=us), batches(level)
        stack = source._stack

        def cast(clips: list[dict], update: int, positions: range, stream: str) -> Clips:
            made = stack(clips, update, positions, stream)
            names = [f.name for f in fields(made) if getattr(made, f.name) is not None]
            floats = {name: getattr(made, name) for name in names if getattr(made, name).is_floating_point()}
            return replace(made, **{name: value.to(dtype) for name, value in floats.items()})

        source._stack = cast
        history = train(networks, source, params, us, folder).history
        statistics = recalibrate(
            networks.generator, [dummy(source.fake_clips(100 + i, us.positions(4))) for i in range(2)]
        )
        both = {"G": networks.generator, "D": networks.discriminators}
        return {
            "parameters": {f"{k}.{name}": p.detach() for k, n in both.items() for name, p in n.named_parameters()},
            "vectors": {f"{k}.{name}": b for k, n in both.items() for name, b in n.named_buffers()},
            "history": history,
            "statistics": statistics,
        }


def finite_differences(us: Workers) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the sum of both workers' losses by each value of one worker's batch, then the other's: (autograd, by hand)."""
    torch.manual_seed(us.rank)
    norm, z = ConditionalBatchNorm(2, 3).double(), torch.zeros(2, 3, dtype=torch.float64)
    x = torch.randn(2, 2, 2, 2, 2, dtype=torch.float64)
    along = torch.randn_like(x)

    def loss(value: torch.Tensor) -> torch.Tensor:
        return (norm(value, z) * along).sum()

    moved = x.clone().requires_grad_()
    loss(moved).backward()
    assert moved.grad is not None
    by_hand = torch.zeros(2, x.numel(), dtype=torch.float64)
    by_autograd = torch.zeros_like(by_hand)
    by_autograd[us.rank] = moved.grad.flatten()
    with torch.no_grad():
        for owner in range(2):  # both take part in every pass: each has the other's values in its moments
            for i in range(x.numel()):
                ends = []
                for step in (1e-6, -1e-6):
                    value = x.clone()
                    value.view(-1)[i] += step if us.rank == owner else 0.0
                    total = loss(value)
                    dist.all_reduce(total)
                    ends.append(total)
                by_hand[owner, i] = (ends[0] - ends[1]) / 2e-6
    dist.all_reduce(by_autograd)
    return by_autograd, by_hand


def every_case(us: Workers, folder: Path) -> dict[str, Any]:
    return {
        **{case: trained(case, us, folder / case, params) for case, (*_, params) in CASES.items()},
        "gradients": finite_differences(us),
    }


def compiled(us: Workers, folder: Path) -> dict[str, Any]:
    return trained("level 2", us, folder / "compiled", replace(SHORT, compile=True))


def worker(rank: int, port: int, folder: Path, work: Callable[[Workers, Path], dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)
    )
    with workers() as us:
        results = work(us, folder)
        if rank == 0:
            torch.save(results, folder / "results.pt")


def by_two(work: Callable[[Workers, Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What the first of two workers ends with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(worker, args=(port, folder, work), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.fixture(autouse=True)
def one_thread():
    """As in the workers: other teams of threads round otherwise, and Adam takes a gradient near zero by its sign."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return by_two(every_case, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_two_workers_are_one(case, two, tmp_path):
    alone = trained(case, ALONE, tmp_path, LONG)
    exact = CASES[case][1] == torch.float64
    near = 1e-9 if exact else 1e-5
    for ours, theirs in zip(alone["history"], two[case]["history"], strict=True):
        losses = [name for name in ours if name.startswith(("loss", "hinge"))]
        assert {n: ours[n] for n in losses} == pytest.approx({n: theirs[n] for n in losses}, abs=near)
        assert ours == pytest.approx(theirs, rel=near, abs=near)
    for name, value in alone["parameters"].items():
        assert torch.allclose(value, two[case]["parameters"][name], rtol=0, atol=near), name
    # Orthogonal weights begin with singular values that are all alike: rounding turns a vector, not sigma.
    for name, value in alone["vectors"].items():
        assert torch.allclose(value, two[case]["vectors"][name], rtol=0, atol=10 * near), name
    for name, value in alone["statistics"].items():  # float32 themselves
        assert torch.allclose(value, two[case]["statistics"][name], rtol=1e-5, atol=1e-6 if exact else 2e-5), name


def test_synchronous_batch_norm_against_finite_differences(two):
    by_autograd, by_hand = two["gradients"]
    assert by_hand.abs().max() > 0.1
    assert torch.allclose(by_autograd, by_hand, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_compiled_workers_are_one_that_is_not(tmp_path):
    two, alone = by_two(compiled, tmp_path), trained("level 2", ALONE, tmp_path / "alone", SHORT)
    assert alone["parameters"].keys() == two["parameters"].keys()
    for name, value in alone["parameters"].items():
        assert torch.allclose(value, two["parameters"][name], rtol=0, atol=1e-5), name

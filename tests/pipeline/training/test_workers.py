"""Two workers over gloo compute what one does."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from models.unroll import recalibrate
from pipeline.training.distributed import workers
from pipeline.training.loop import train
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, dummy, networks


def tensors(trained):
    of_d = {f"D.{name}": value for name, value in trained.discriminators.state_dict().items()}
    return {**trained.generator.state_dict(), **of_d}


def recalibrated(trained, us):
    clips = [batches(2).fake_clips(100 + i, us.positions(4)) for i in range(2)]
    return recalibrate(trained.generator, [dummy(c) for c in clips])


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)
    )
    with workers() as us:
        trained = networks(2, us)
        history = train(trained, batches(2), TRAINING, us, folder).history
        result = {"tensors": tensors(trained), "history": history, "statistics": recalibrated(trained, us)}
        if rank == 0:
            torch.save(result, folder / "result.pt")


@pytest.mark.timeout(120)
def test_two_workers_are_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(worker, args=(port, tmp_path), nprocs=2)
    two = torch.load(tmp_path / "result.pt", weights_only=True)

    alone = networks(2)
    history = train(alone, batches(2), TRAINING, ALONE, tmp_path / "one").history
    for ours, theirs in zip(history, two["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)
    for name, value in tensors(alone).items():
        assert torch.allclose(value, two["tensors"][name], rtol=1e-4, atol=2e-5), name
    for name, value in recalibrated(alone, ALONE).items():
        assert torch.allclose(value, two["statistics"][name], rtol=1e-4, atol=2e-5), name

"""Three workers that are interrupted end with the bytes of three that are not."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from pipeline.training.distributed import Workers, workers
from pipeline.training.loop import train
from pipeline.training.step import Networks
from tests.models.level_configs import SECOND
from tests.pipeline.training.tiny import TRAINING, batches, weights

PARAMS = replace(TRAINING, batch=6)


def run(us: Workers, folder: Path) -> dict[str, torch.Tensor]:
    networks = Networks(SECOND, PARAMS, seed=0, workers=us)
    train(networks, batches(2), PARAMS, us, folder)
    return weights(networks)


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="3", LOCAL_RANK="0")
    with workers() as us:
        whole = run(us, folder / "whole")
        if rank == 0:
            (folder / "cut").mkdir()
            shutil.copy(folder / "whole" / "checkpoint-00000004.pt", folder / "cut")
        us.wait()
        resumed = run(us, folder / "cut")
        if rank == 0:
            torch.save([whole, resumed], folder / "weights.pt")


@pytest.mark.timeout(280)
def test_three_workers_resume_to_the_same_bytes(tmp_path):
    """The order of a sum over three matters, unlike that over two; DDP may not change it after the first iteration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(worker, args=(port, tmp_path), nprocs=3)
    whole, resumed = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

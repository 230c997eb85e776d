"""Three workers that are interrupted end with the bytes of three that are not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.training.step import Networks
from pipeline.workers import Workers
from tests.models.level_configs import SECOND
from tests.pipeline.training.tiny import TRAINING, batches, train, weights
from tests.pipeline.training.together import Job, results

PARAMS = replace(TRAINING, batch=6)


def run(workers: Workers, folder: Path) -> dict[str, torch.Tensor]:
    networks = Networks(SECOND, PARAMS, seed=0, workers=workers)
    train(networks, batches(2), PARAMS, workers, folder)
    return weights(networks)


def whole_and_resumed(workers: Workers, folder: Path) -> list[dict[str, torch.Tensor]]:
    whole = run(workers, folder / "whole")
    if workers.rank == 0:
        (folder / "cut").mkdir()
        shutil.copy(folder / "whole" / "checkpoint-00000004.pt", folder / "cut")
    workers.wait()
    return [whole, run(workers, folder / "cut")]


@pytest.mark.timeout(280)
def test_three_workers_resume_to_the_same_bytes(tmp_path):
    """The order of a sum over three matters, unlike that over two; it is the same in every iteration."""
    whole, resumed = results({"three": Job(3, whole_and_resumed)}, tmp_path)["three"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

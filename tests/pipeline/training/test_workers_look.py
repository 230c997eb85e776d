"""Two workers over gloo look at a run together: pictures, the metric, and which checkpoint to go on from."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from pipeline.errors import UserError
from pipeline.metrics.features import random_i3d
from pipeline.params import EarlyStopping
from pipeline.training import checkpoint, early_stopping
from pipeline.training.distributed import Workers, workers
from pipeline.training.early_stopping import WindowDistance
from pipeline.training.loop import train
from tests.pipeline.training.tiny import ALONE, TRAINING, MemoryReader, batches, networks, views

STOPPING = EarlyStopping(every=3, patience=5, videos=6, i3d=None)
PARAMS = replace(TRAINING, samples_every=3, average=0.9, early_stopping=STOPPING, log_every=3)


def means(network, clips):
    """In place of an I3D: the mean of each clip."""
    return [type("Found", (), {"pooled": clips.float().mean((1, 2, 3, 4))[:, None].expand(-1, 1024)})]


def looked_at(us: Workers, folder: Path) -> list[float]:
    _, top, labels = views()
    i3d = random_i3d(0)
    distance = WindowDistance(batches(2), MemoryReader(top, labels), i3d, videos=6, batch=4, workers=us)
    history = train(networks(2, us), batches(2), PARAMS, us, folder, measure=distance).history
    return [row[distance.name] for row in history]


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    early_stopping.extract = means
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)
    )
    with workers() as us:
        values = looked_at(us, folder)
        newest = checkpoint.files(folder)[0]
        us.wait()
        if rank == 0:
            torch.save(values, folder / "values.pt")
            newest.write_bytes(b"damaged")
        us.wait()
        restored = checkpoint.load(folder, {}, us)
        assert restored is not None and restored[0] == 4  # on both: the one before
        try:
            checkpoint.load(folder if rank == 0 else folder / "elsewhere", {}, us)
        except UserError as error:
            assert "worker 0 goes on from it and worker 1 cannot read it" in str(error)
            (folder / "refused").touch()


@pytest.mark.timeout(280)
def test_two_workers_look_as_one(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(worker, args=(port, tmp_path), nprocs=2)
    monkeypatch.setattr(early_stopping, "extract", means)
    one = looked_at(ALONE, tmp_path / "one")
    assert torch.load(tmp_path / "values.pt", weights_only=True) == pytest.approx(one, rel=1e-2)
    assert len(one) == 2
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == [
        f"iteration-0000000{step}.{kind}" for step in (3, 6) for kind in ("mp4", "png")
    ]
    assert (tmp_path / "refused").is_file()

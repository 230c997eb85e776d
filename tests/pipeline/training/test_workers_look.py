"""Two workers over gloo look at a run together: pictures, the metric, and which checkpoint to go on from."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.metrics.features import random_i3d
from pipeline.params import Measure
from pipeline.training import checkpoint, measure
from pipeline.training.measure import WindowMeasure
from pipeline.workers import Workers
from tests.pipeline.training.tiny import TRAINING, MemoryReader, batches, networks, train, views
from tests.pipeline.training.together import Job, results

MEASURE = Measure(every=3, videos=6, i3d=None, splits=None, patience=5)
PARAMS = replace(TRAINING, samples_every=3, average=0.9, measure=MEASURE, log_every=3)


def means(network, clips):
    """In place of an I3D: the mean of each clip."""
    return [type("Found", (), {"logits": clips.float().mean((1, 2, 3, 4))[:, None].expand(-1, 400)})]


def looked_at(workers: Workers, folder: Path) -> list[float]:
    measure.extract = means
    low, top, labels = views()
    i3d = random_i3d(0)
    kept_back = MemoryReader(low, labels)
    distance = WindowMeasure(batches(2), MemoryReader(top, labels), kept_back, i3d, MEASURE, 4, workers)
    history = train(networks(2, workers), batches(2), PARAMS, workers, folder, measure=distance).history
    return [row[distance.name] for row in history]


def looked_at_and_restored(workers: Workers, folder: Path) -> list[float]:
    values = looked_at(workers, folder)
    newest = checkpoint.files(folder)[0]
    workers.wait()
    if workers.rank == 0:
        newest.write_bytes(b"damaged")
    workers.wait()
    restored = checkpoint.load(folder, {}, workers)
    assert restored is not None and restored[0] == 4  # on both: the one before
    if workers.rank == 0:
        checkpoint.load(folder, {}, workers)
    else:
        with pytest.raises(UserError, match="worker 0 goes on from iteration 4 and worker 1 from 0"):
            checkpoint.load(folder / "elsewhere", {}, workers)
    return values


@pytest.mark.timeout(280)
def test_two_workers_look_as_one(tmp_path):
    got = results({"one": Job(1, looked_at), "two": Job(2, looked_at_and_restored)}, tmp_path)
    assert got["two"] == pytest.approx(got["one"], rel=1e-2)
    assert len(got["one"]) == 2
    assert sorted(file.name for file in (tmp_path / "two" / "pictures").iterdir()) == [
        f"iteration-0000000{step}.{kind}" for step in (3, 6) for kind in ("mp4", "png")
    ]

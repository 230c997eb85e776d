from dataclasses import replace

import numpy as np
import pytest

from models.unroll import use_statistics
from pipeline.data.store.reader import ViewReader
from pipeline.generation.generate import SPLITS, SampleSource, calibrate, generate
from pipeline.params import GenerationParams, SigmaParams
from tests.pipeline.training.tiny import ALONE, TRAINING, networks

PARAMS = GenerationParams(videos=7, figures=3, batch=2, recalibration=2, piece=None)
SIGMA = SigmaParams(metrics=1.0, figures=0.5)
LABELS = np.array([0, 0, 1, 2])


def make(level, store, conditions=None, params=PARAMS):
    source = SampleSource(
        params=params,
        videos={"samples": params.videos, "figures": params.figures},
        sigma=SIGMA,
        seed=0,
        labels=LABELS,
        classes=("a", "b", "c"),
        conditions=conditions,
    )
    calibrated = calibrate(networks(level).generator, source, TRAINING.batch, ALONE)
    assert {split: sigma for split, (sigma, _) in calibrated.items()} == {"samples": 1.0, "figures": 0.5}
    generators = {split: networks(level).generator.eval() for split in SPLITS}
    for split, generator in generators.items():
        use_statistics(generator, calibrated[split][1])
    generate(generators, source, store, ALONE)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    make(1, folder / "level-1")
    conditions = {split: ViewReader(folder / "level-1", 1, split) for split in SPLITS}
    make(2, folder / "level-2", conditions, replace(PARAMS, videos=5, figures=2))
    return folder


def test_samples_are_a_view_with_labels(stores):
    first = ViewReader(stores / "level-1", 1, "samples")
    assert len(first) == 7
    assert first.read(6, 0, 4).shape == (4, 8, 8, 3)
    assert np.bincount(first.labels).tolist() == [3, 2, 2]  # the data's 2:1:1 of 7
    assert first.videos["class"].tolist() == ["abc"[label] for label in first.labels]
    assert ViewReader(stores / "level-1", 1, "figures").videos["sigma"].tolist() == [0.5] * 3
    second = ViewReader(stores / "level-2", 2, "samples")
    assert second.read(0, 0, 8).shape == (8, 16, 16, 3)


def test_every_sample_keeps_the_label_of_its_condition(stores):
    for split in SPLITS:
        below, above = (ViewReader(stores / f"level-{level}", level, split) for level in (1, 2))
        assert above.labels.tolist() == below.labels[: len(above)].tolist()


def test_samples_do_not_depend_on_the_batch_or_on_how_many_there_are(stores, tmp_path):
    make(1, tmp_path / "again", params=replace(PARAMS, videos=7, figures=3, batch=3))
    a, b = (ViewReader(path, 1, "figures") for path in (stores / "level-1", tmp_path / "again"))
    for video in range(3):
        assert np.abs(a.read(video, 0, 4).astype(int) - b.read(video, 0, 4)).max() <= 1


def test_the_same_inputs_give_the_same_store(stores, tmp_path):
    make(1, tmp_path / "level-1")
    assert ViewReader(tmp_path / "level-1", 1).digest == ViewReader(stores / "level-1", 1).digest


def test_samples_in_pieces_are_the_wholes(stores, tmp_path):
    conditions = {split: ViewReader(stores / "level-1", 1, split) for split in SPLITS}
    make(2, tmp_path / "level-2", conditions, replace(PARAMS, videos=5, figures=2, piece=1))
    whole, pieces = (ViewReader(path / "level-2", 2, "samples") for path in (stores, tmp_path))
    for video in range(5):
        assert np.abs(whole.read(video, 0, 8).astype(int) - pieces.read(video, 0, 8)).max() <= 1

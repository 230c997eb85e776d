"""Table 4: samples of some classes against all real videos of these."""

import numpy as np
import pytest
import torch

from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.metrics import evaluation
from pipeline.metrics.class_sets import evaluate_classes
from pipeline.metrics.features import extract
from pipeline.metrics.frechet import frechet_distance
from pipeline.params import load_params
from pipeline.workers import ALONE
from tests.pipeline.metrics.tiny import tiny_network
from tests.stages.fake_project import CLASSES, make_project


def test_a_class_is_measured_against_its_videos_of_all_splits(tmp_path, monkeypatch):
    """12 videos of each of train and val in 4 classes, 10 frames long; samples of 8."""
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed, "ab" * 32))
    monkeypatch.setattr(evaluation, "choose_start", lambda *_: 0)
    paths = make_project(tmp_path, videos=12)
    params = load_params(paths.params)
    store = paths.samples(2) / "videos"
    table, protocol = evaluate_classes(params, paths, store, ALONE)
    assert table["class"].tolist() == list(CLASSES)
    assert table["real"].tolist() == [6] * 4 and table["generated"].tolist() == [3] * 4
    assert (protocol["real_videos"], protocol["generated_videos"], protocol["real_split"]) == (24, 12, "all")
    assert (protocol["frames"], protocol["splits"]) == (8, None)
    real, samples = ViewReader(paths.pyramid, 2), ViewReader(store, 2)

    def logits(reader: ViewReader) -> torch.Tensor:
        videos = np.stack([reader.read(i, 0, 8) for i in np.flatnonzero(reader.labels == 1).tolist()])
        return torch.cat([part.logits for part in extract(tiny_network(0), torch.from_numpy(videos).movedim(-1, -3))])

    assert table["fvd"].tolist()[1] == pytest.approx(frechet_distance(logits(real), logits(samples)), rel=1e-6)


def test_classes_without_two_videos_are_left_out_aloud(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    paths = make_project(tmp_path, videos=5)  # of the first class two samples, of the others one
    params = load_params(paths.params)
    table, _ = evaluate_classes(params, paths, paths.samples(2) / "videos", ALONE)
    assert table["class"].tolist() == [CLASSES[0]] and table["random_i3d_recall"].between(0, 1).all()
    assert "class 'plain' is left out: it has 2 real videos and 1 samples" in caplog.text
    lone = make_project(tmp_path / "lone", videos=2)
    with pytest.raises(UserError, match="no class of two samples"):
        evaluate_classes(params, lone, lone.samples(2) / "videos", ALONE)


def test_samples_of_another_sigma_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    paths = make_project(tmp_path, videos=5)
    with pytest.raises(UserError, match=r"figures: drawn at sigma 0\.5, not sigma\.metrics"):
        evaluate_classes(load_params(paths.params), paths, paths.samples(2) / "figures", ALONE)

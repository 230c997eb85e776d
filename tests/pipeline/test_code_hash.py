"""Which edits change a result's code, and which do not."""

import shutil

import pytest

from pipeline import code_hash as module
from pipeline.code_hash import ROOT, code_hash, imported
from pipeline.training.checkpoint import METRIC


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The project's code in a folder of its own, and the hash of it as it is at each call."""
    for name in module.PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def edit(file: str, old: str, new: str) -> None:
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new, 1))

    return edit


def hashed(stage: str, **options) -> str:
    for cache in (code_hash, module._read):
        cache.cache_clear()
    found = code_hash(stage, **options)
    code_hash.cache_clear()
    return found


UNSEEN = {
    "a comment": ("models/layers.py", "class Linear(", "# a comment\nclass Linear("),
    "a docstring": ("models/losses.py", '"""', '"""Reworded: '),
    "a metric that training does not use": ("pipeline/metrics/psd.py", "def frame_spectra", "x = 1\ndef frame_spectra"),
    "a launcher": ("pipeline/launch/local.py", "class LocalLauncher", "x = 1\nclass LocalLauncher"),
    "a picture": ("pipeline/media/grid.py", "def ", "x = 1\ndef "),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_an_edit_that_training_does_not_see(copy, what):
    before = hashed("stages.train")
    copy(*UNSEEN[what])
    assert hashed("stages.train") == before


SEEN = {
    "a layer": ("models/norm.py", "eps = 1e-5", "eps = 1e-4"),
    "the reader": ("pipeline/data/store/reader.py", "class ViewReader", "x = 1\nclass ViewReader"),
    "a loss": ("models/losses.py", "relu(1 -", "relu(2 -"),
}


@pytest.mark.parametrize("what", SEEN)
def test_an_edit_that_training_sees(copy, what):
    before = hashed("stages.train")
    copy(*SEEN[what])
    assert hashed("stages.train") != before


def test_the_metric_decides_only_where_training_measures_by_it(copy):
    before, without = hashed("stages.train"), hashed("stages.train", without=METRIC)
    copy("pipeline/metrics/frechet.py", "def frechet_distance", "x = 1\ndef frechet_distance")
    assert hashed("stages.train") != before
    assert hashed("stages.train", without=METRIC) == without


def test_what_measures_clips_is_found_through_others():
    found = set(imported("pipeline.metrics.evaluation"))
    assert {"models.i3d", "pipeline.workers", "pipeline.data.store.codecs", "pipeline.metrics.psd"} <= found
    assert not {name for name in found if name.startswith(("pipeline.training", "pipeline.report", "stages"))}

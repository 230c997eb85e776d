"""Stores of two tiny untrained levels: what they hold, of what they are made, and by which statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.unroll import use_statistics
from pipeline.data import sampling
from pipeline.data.pixels import to_bytes, to_unit
from pipeline.data.store.reader import ViewReader
from pipeline.generation.generate import calibrate, generate
from pipeline.generation.source import Source
from pipeline.params import GenerationParams
from tests.pipeline.training.tiny import ALONE, TRAINING, networks

PARAMS = GenerationParams(batch=2, recalibration=2, piece=None)
SOURCE = Source(
    splits={"train": 7, "measure": 3},
    sigma=0.5,
    params=PARAMS,
    seed=0,
    labels=np.array([0, 0, 1, 2]),
    classes=("a", "b", "c"),
    conditions=None,
)


def make(level, store, **changed):
    source, generator = replace(SOURCE, **changed), networks(level).generator
    use_statistics(generator, calibrate(generator, source, TRAINING.batch, ALONE))
    generate(generator.eval(), source, store, ALONE)
    return generator


def conditions(store, *splits):
    return {split: ViewReader(store, 1, split) for split in splits}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    below = make(1, folder / "level-1")
    of = {"conditions": conditions(folder / "level-1", "train", "measure"), "below": (below,)}
    make(2, folder / "level-2", **of, splits={"train": 5, "measure": 2})
    return folder, of


def test_samples_are_a_view_with_labels(stores):
    first = ViewReader(stores[0] / "level-1", 1, "train")
    assert len(first) == 7
    assert first.read(6, 0, 4).shape == (4, 8, 8, 3)
    assert np.bincount(first.labels).tolist() == [3, 2, 2]  # the data's 2:1:1 of 7
    assert first.videos["class"].tolist() == ["abc"[label] for label in first.labels]
    assert ViewReader(stores[0] / "level-1", 1, "measure").videos["sigma"].tolist() == [0.5] * 3
    second = ViewReader(stores[0] / "level-2", 2, "train")
    assert second.read(0, 0, 8).shape == (8, 16, 16, 3)


def test_every_sample_keeps_the_label_of_its_condition(stores):
    for split in SOURCE.splits:
        below, above = (ViewReader(stores[0] / f"level-{level}", level, split) for level in (1, 2))
        assert above.labels.tolist() == below.labels[: len(above)].tolist()


def test_splits_have_latents_of_their_own(stores):
    reader = ViewReader(stores[0] / "level-1", 1)
    videos = [reader.read(video, 0, 4) for video in range(len(reader))]
    assert len({video.tobytes() for video in videos}) == 10


def test_samples_do_not_depend_on_the_batch_or_on_how_many_there_are(stores, tmp_path):
    make(1, tmp_path / "again", splits={"train": 1, "measure": 3}, params=replace(PARAMS, batch=3))
    a, b = (ViewReader(path, 1, "measure") for path in (stores[0] / "level-1", tmp_path / "again"))
    for video in range(3):
        assert np.abs(a.read(video, 0, 4).astype(int) - b.read(video, 0, 4)).max() <= 1


def test_the_same_inputs_give_the_same_store(stores, tmp_path):
    make(1, tmp_path / "level-1")
    assert ViewReader(tmp_path / "level-1", 1).digest == ViewReader(stores[0] / "level-1", 1).digest


def test_samples_in_pieces_are_the_wholes(stores, tmp_path):
    folder, of = stores
    make(2, tmp_path / "level-2", **of, splits={"train": 5, "measure": 2}, params=replace(PARAMS, piece=1))
    whole, pieces = (ViewReader(path / "level-2", 2, "train") for path in (folder, tmp_path))
    for video in range(5):
        assert np.abs(whole.read(video, 0, 8).astype(int) - pieces.read(video, 0, 8)).max() <= 1


def test_windows_are_made_of_windows_of_the_level_below_alone(stores, tmp_path):
    folder, of = stores
    below = ViewReader(folder / "level-1", 1, "measure")
    source = {"splits": {"windows": 5}, "window": 2, "conditions": {"windows": below}, "below": of["below"]}
    generator = make(2, tmp_path / "windows", **source)
    windows, starts = ViewReader(tmp_path / "windows", 2, "windows"), set()
    assert (len(windows), windows.n_frames.tolist()) == (5, [4] * 5)
    assert windows.labels.tolist() == below.labels[[0, 1, 2, 0, 1]].tolist()  # of three conditions five windows
    for video in range(5):
        draw = sampling.generator(0, 2, "generate-windows", 0, video)
        noise = draw.standard_normal(generator.config.generator.noise, dtype=np.float32) * np.float32(0.5)
        label, whole = torch.tensor([windows.labels[video]]), below.read(video % 3, 0, 4)
        made = {
            start: to_bytes(generator(torch.from_numpy(noise)[None], label, to_unit(whole[None, start : start + 2])))
            for start in range(3)
        }
        distances = {
            start: np.abs(frames[0].astype(int) - windows.read(video, 0, 4)).max() for start, frames in made.items()
        }
        start = min(distances, key=lambda key: distances[key])
        assert distances[start] <= 1 and sorted(distances.values())[1] > 1
        starts.add(start)
    assert len(starts) > 1


def test_statistics_are_of_conditions_drawn_afresh_through_the_levels_below(stores):
    """By hand: the moments of what enters the last norm of level 2, over the passes."""
    below, level = stores[1]["below"][0], networks(2).generator
    source = replace(SOURCE, **stores[1], splits={"train": 5})
    statistics = calibrate(level, source, TRAINING.batch, ALONE)
    seen, name = [], [key for key in statistics if key.endswith(".mean")][-1].removesuffix(".mean")
    hook = level.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    level.train()
    conditions: list[torch.Tensor] = []
    for step in range(PARAMS.recalibration):
        noise, labels = [], []
        conditions.clear()
        for position in range(TRAINING.batch):
            draw = sampling.generator(0, 2, "recalibrate-train", step, position)
            label = torch.tensor([SOURCE.labels[draw.integers(4)]])
            z = torch.from_numpy(draw.standard_normal(below.config.generator.noise, dtype=np.float32) * np.float32(0.5))
            conditions.append(to_unit(to_bytes(below(z[None], label, None))))
            noise.append(
                torch.from_numpy(draw.standard_normal(level.config.generator.noise, dtype=np.float32) * np.float32(0.5))
            )
            labels.append(label)
        with torch.no_grad():
            level(torch.stack(noise), torch.cat(labels), torch.cat(conditions))
    hook.remove()
    expected = torch.stack([x.mean((0, 3, 4)) for x in seen]).mean(0)
    assert torch.allclose(statistics[f"{name}.mean"].double(), expected, atol=2e-3)
    calibrated = {video.tobytes() for x in conditions for video in [to_bytes(x)]}
    stored = ViewReader(stores[0] / "level-1", 1)
    assert not calibrated & {stored.read(video, 0, 4).tobytes() for video in range(len(stored))}

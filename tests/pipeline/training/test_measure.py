import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from pipeline.data.pixels import to_bytes
from pipeline.errors import UserError
from pipeline.metrics.features import Features, random_i3d
from pipeline.params import Measure, load_params
from pipeline.training import checkpoint
from pipeline.training.measure import WindowMeasure, window_measure
from tests.pipeline.training.tiny import ALONE, TRAINING, MemoryReader, batches, networks, same, train, views
from tests.stages.fake_project import make_project

MEASURE = Measure(every=2, videos=2, i3d=None, splits=None, patience=2)
STOPPING = replace(TRAINING, iterations=12, measure=MEASURE)


class Told(WindowMeasure):
    """A metric whose values are told beforehand."""

    name, params = "told", MEASURE

    def __init__(self, *values):
        self.values, self.seen = list(values), []

    def __call__(self, generator):
        self.seen.append({name: value.clone() for name, value in generator.state_dict().items()})
        return {self.name: self.values.pop(0)}


def equal(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("average", [None, 0.9])
def test_it_stops_after_its_patience_and_the_best_is_published(average, tmp_path):
    params, told = replace(STOPPING, average=average), Told(3.0, 2.0, 2.0, 2.5, 0.0)
    numbers = {}
    trained = train(
        networks(1), batches(1), params, ALONE, tmp_path, lambda row, step: numbers.update({step: row}), measure=told
    )
    assert told.values == [0.0]  # equal is not better: two measurements after the best one it is over
    assert trained.iteration == 4
    assert equal(told.seen[1], trained.generator.state_dict())
    assert not equal(told.seen[3], trained.generator.state_dict())
    assert {row["step"]: row["told"] for row in trained.history if "told" in row} == {2: 3.0, 4: 2.0, 6: 2.0, 8: 2.5}
    assert [row["step"] for row in trained.history] == [2, 3, 4, 6, 8]  # logged every 3, measured every 2
    assert numbers[8] == {"told": 2.5}


def test_a_run_that_gets_better_goes_on_to_its_end_as_if_nothing_was_measured(tmp_path):
    plain, measured = networks(1), networks(1)
    train(plain, batches(1), replace(STOPPING, measure=None), ALONE, tmp_path / "plain")
    told = Told(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    trained = train(measured, batches(1), STOPPING, ALONE, tmp_path / "measured", measure=told)
    assert trained.iteration == 12
    assert same(plain, measured)


def test_an_interrupted_run_stops_at_the_same_iteration_with_the_same_generator(tmp_path):
    values = (3.0, 2.0, 2.1, 2.2)
    whole = train(networks(1), batches(1), STOPPING, ALONE, tmp_path / "whole", measure=Told(*values))

    class Killed(Exception):
        pass

    def kill_at_6(numbers, step):
        if step == 6 and "told" in numbers:
            raise Killed

    with pytest.raises(Killed):  # the checkpoint of iteration 6 is from before its measurement
        train(networks(1), batches(1), STOPPING, ALONE, tmp_path / "cut", kill_at_6, measure=Told(*values))
    resumed = train(networks(1), batches(1), STOPPING, ALONE, tmp_path / "cut", measure=Told(*values[2:]))
    assert resumed.iteration == whole.iteration == 4
    assert equal(whole.generator.state_dict(), resumed.generator.state_dict())
    assert whole.history == resumed.history


def test_term_while_it_measures_saves_the_iteration_and_the_measurement_is_made_again(tmp_path):
    class Terminated(Told):
        def __call__(self, generator):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("it goes on measuring")

    params = replace(STOPPING, checkpoint_every=100)
    with pytest.raises(SystemExit) as ended:
        train(networks(1), batches(1), params, ALONE, tmp_path, measure=Terminated(1.0))
    assert ended.value.code == 143
    assert [file.name for file in checkpoint.files(tmp_path)] == ["checkpoint-00000002.pt"]
    told = Told(1.0, 2.0, 3.0)
    trained = train(networks(1), batches(1), params, ALONE, tmp_path, measure=told)
    assert (trained.iteration, told.values) == (2, [])


def test_the_best_generator_is_the_one_that_the_checkpoint_speaks_of(tmp_path):
    told = Told(3.0, 2.0)

    def kill_at_4(numbers, step):
        if step == 4 and "told" in numbers:
            raise InterruptedError

    with pytest.raises(InterruptedError):  # after iteration 4 was found to be better
        train(networks(1), batches(1), STOPPING, ALONE, tmp_path, kill_at_4, measure=told)
    other = Told(4.0, 4.0)  # as on a GPU, where the same iteration is never quite the same again
    resumed = train(networks(1), batches(1), STOPPING, ALONE, tmp_path, measure=other)
    assert resumed.iteration == 2
    assert equal(resumed.generator.state_dict(), told.seen[0])


def distance(level, videos=6, batch=4, frames=12):
    low, top, labels = views(frames=frames)
    real = MemoryReader(low, labels, 2) if level == 1 else MemoryReader(top, labels)
    measure = Measure(every=1, videos=videos, i3d=None, splits=None, patience=1)
    kept_back = MemoryReader(low[:1], labels[:1]) if level > 1 else None
    return WindowMeasure(batches(level), real, kept_back, random_i3d(0), measure, batch, ALONE)


def test_the_distance_is_of_as_many_windows_as_asked_for(monkeypatch):
    """Features by hand: the mean of each clip in 400 copies."""
    seen = []

    def extract(network, clips):
        seen.append(clips)
        return [type("Found", (), {"logits": clips.float().mean((1, 2, 3, 4))[:, None].expand(-1, 400)})]

    monkeypatch.setattr("pipeline.training.measure.extract", extract)
    generator = networks(2).generator
    (value,) = distance(2)(generator).values()
    assert [len(clips) for clips in seen] == [1] * 6 + [4, 2]  # real ones, then generated ones
    assert all(clips.shape[1:] == (4, 3, 16, 16) and clips.dtype == torch.uint8 for clips in seen)
    windows, generated = torch.cat(seen[:6]), torch.cat(seen[6:])
    real, fake = (clips.double().mean((1, 2, 3, 4)) for clips in (windows, generated))
    expected = (real.mean() - fake.mean()) ** 2 + (real.std() - fake.std()) ** 2  # of 400 equal normal variables
    assert value == pytest.approx(400 * expected.item(), rel=1e-4)
    top = views()[1]
    for clip in windows.movedim(2, -1).numpy():  # every real window is one of the data's
        assert any(np.array_equal(clip, video[start : start + 4]) for video in top for start in range(0, 9, 2))
    assert len({clip.tobytes() for clip in windows.numpy()}) == 6


def test_conditions_are_those_kept_back_and_no_others(monkeypatch):
    seen = []
    monkeypatch.setattr("pipeline.training.measure.extract", lambda *_: [])
    generator = networks(2).generator
    generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    distance(2)(generator)
    kept_back = views()[0][0]
    for clip in to_bytes(torch.cat(seen)):
        assert any(np.array_equal(clip, kept_back[start : start + 2]) for start in range(len(kept_back) - 1))


def test_without_patience_the_last_generator_is_published_and_the_numbers_are_kept(tmp_path):
    told = Told(3.0, 2.0, 4.0, 5.0, 6.0, 7.0)
    told.params = replace(MEASURE, patience=None)
    trained = train(networks(1), batches(1), STOPPING, ALONE, tmp_path, measure=told)
    assert trained.iteration == 12
    assert equal(told.seen[-1], trained.generator.state_dict())
    assert [row["told"] for row in trained.history if "told" in row] == [3.0, 2.0, 4.0, 5.0, 6.0, 7.0]


def test_generated_windows_have_an_inception_score_under_a_trained_network(monkeypatch):
    monkeypatch.setattr(
        "pipeline.training.measure.extract",
        lambda _, clips: [Features(clips[:, 0, 0, 0].float(), torch.eye(400)[: len(clips)] * 50)],
    )
    measured = distance(1, videos=4)
    measured.params = replace(measured.params, splits=1)
    assert measured(networks(1).generator).keys() == {"random_i3d_frechet_windows"}
    measured._network = replace(measured._network, sha256="a" * 64)
    measured.name = "frechet_windows"
    assert measured(networks(1).generator)["inception_score_windows"] == pytest.approx(4)  # each of a class of its own


def test_a_split_without_a_window_is_refused():
    with pytest.raises(UserError, match=r"levels\.1\.training\.measure: no video of the split 'val'"):
        distance(1, frames=6)


def test_data_without_a_validation_split_is_refused_by_key(tmp_path):
    paths = make_project(tmp_path)
    params = load_params(paths.params)
    level = params.levels["1"]
    stopping = replace(level.training, measure=MEASURE)
    params = replace(params, levels={**params.levels, "1": replace(level, training=stopping)})
    assert window_measure(batches(1), params, paths, ALONE).name == "random_i3d_frechet_windows"
    videos = pd.read_parquet(paths.pyramid / "videos.parquet")
    videos.assign(split="train").to_parquet(paths.pyramid / "videos.parquet")
    attributes = zarr.open_group(paths.pyramid, mode="r+").attrs
    del attributes["table"], attributes["checksum"]
    with pytest.raises(UserError, match=r"levels\.1\.training\.measure: .* no video of the split 'val'; give"):
        window_measure(batches(1), params, paths, ALONE)


@pytest.mark.slow
def test_a_run_measured_by_a_random_i3d(tmp_path):
    plain, measured = networks(1), networks(1)
    params = replace(STOPPING, iterations=2)
    train(plain, batches(1), replace(params, measure=None), ALONE, tmp_path / "plain")
    by_i3d = distance(1, videos=2)
    by_i3d.params = replace(by_i3d.params, patience=None)  # or the best of the two would be taken back
    trained = train(measured, batches(1), params, ALONE, tmp_path / "measured", measure=by_i3d)
    assert same(plain, measured)
    assert trained.history[-1]["random_i3d_frechet_windows"] > 0

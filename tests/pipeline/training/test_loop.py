import random
import signal
from dataclasses import replace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training import checkpoint, loop
from pipeline.training.loop import Training
from pipeline.training.step import Networks
from pipeline.training.termination import termination
from tests.models.level_configs import FIRST
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, networks, same, train


@pytest.mark.parametrize("level", [1, 2])
def test_interrupted_training_ends_with_the_same_bytes(level, tmp_path):
    whole = networks(level)
    history = train(whole, batches(level), TRAINING, ALONE, tmp_path / "whole").history
    assert [row["step"] for row in history] == [3, 6]

    class Stop(Exception):
        pass

    def stop_at_3(row, step):
        raise Stop

    with pytest.raises(Stop):  # as a kill would: the checkpoint of iteration 2 is the newest
        train(networks(level), batches(level), TRAINING, ALONE, tmp_path / "cut", stop_at_3)
    resumed = networks(level)
    again = train(resumed, batches(level), TRAINING, ALONE, tmp_path / "cut").history
    assert same(whole, resumed)
    assert again == history


def test_more_iterations_are_those_of_a_run_that_had_them_from_the_start(tmp_path):
    """Each in a folder of its own, with another `log_every`; the history keeps the rows that it has."""
    runs = {}
    for name, changed in (("half", {"iterations": 4, "log_every": 4}), ("more", {}), ("whole", {})):
        folder = tmp_path / ("apart" if name == "whole" else "same") / f"train-level-2-{name}"
        params = replace(TRAINING, **changed)
        folder.mkdir(parents=True)
        checkpoint.record(folder, {"levels.2": {"training": {**vars(params), "betas": list(params.betas)}}})
        trained = networks(2)
        runs[name] = trained, train(trained, batches(2), params, ALONE, folder).history
    assert same(runs["more"][0], runs["whole"][0]) and not same(runs["half"][0], runs["whole"][0])
    assert [row["step"] for row in runs["more"][1]] == [4, 6]
    assert [row["step"] for row in runs["whole"][1]] == [3, 6]


def test_training_moves_every_weight(tmp_path):
    before, after = networks(2), networks(2)
    train(after, batches(2), TRAINING, ALONE, tmp_path)
    old = dict(before.generator.named_parameters()) | dict(before.discriminators.named_parameters())
    new = dict(after.generator.named_parameters()) | dict(after.discriminators.named_parameters())
    assert [name for name, value in new.items() if torch.equal(value, old[name])] == []


@pytest.mark.parametrize("left", [lambda content: content[:1000], lambda _: b"seed: 0", lambda _: b""])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, left):
    whole = networks(1)
    train(whole, batches(1), TRAINING, ALONE, tmp_path)
    newest = sorted(tmp_path.glob("checkpoint-*.pt"))[-1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-00000004.pt", "checkpoint-00000006.pt"]
    newest.write_bytes(left(newest.read_bytes()))
    resumed = networks(1)
    train(resumed, batches(1), TRAINING, ALONE, tmp_path)
    assert "checkpoint-00000006.pt is damaged" in caplog.text
    assert same(whole, resumed)


def test_a_flipped_bit_of_a_checkpoint_is_noticed_or_changes_nothing(tmp_path, caplog):
    whole, numbers = networks(1), random.Random(0)  # noqa: S311
    train(whole, batches(1), replace(TRAINING, iterations=1), ALONE, tmp_path)
    (file,) = checkpoint.files(tmp_path)
    content = file.read_bytes()
    for place in (numbers.randrange(len(content)) for _ in range(200)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        read = Networks(FIRST, TRAINING, seed=9, workers=ALONE)
        parts = {"generator": read.generator, "discriminators": read.discriminators}
        caplog.clear()
        assert checkpoint.load(tmp_path, parts, ALONE) is None or same(read, whole), place


def test_term_writes_a_checkpoint_and_exits(tmp_path):
    long = replace(TRAINING, iterations=10**6, checkpoint_every=10**6)
    with pytest.raises(SystemExit) as ended:
        train(networks(1), batches(1), long, ALONE, tmp_path, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert ended.value.code == 143
    assert [file.name for file in checkpoint.files(tmp_path)] == ["checkpoint-00000003.pt"]  # where it logged first
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_is_saved_is_known_at_any_time(tmp_path):
    kept = []
    params = replace(TRAINING, iterations=6, log_every=1, checkpoint_every=4)
    with termination() as stop:

        def listen(*_):
            kept.append(stop.kept)

        Training(networks(1), batches(1), params, ALONE, tmp_path, stop, listen).run()
        listen()
    goes_on = "is saved, the same command goes on from it"
    assert kept[:4] == ["level 1: nothing is saved"] * 4  # each row is from before its iteration's checkpoint
    assert kept[4:6] == [f"level 1: iteration 4 {goes_on}"] * 2
    assert kept[6] == f"level 1: iteration 6 {goes_on}"


def test_no_more_than_minutes_of_training_are_unsaved(tmp_path, monkeypatch):
    params = replace(TRAINING, iterations=4, log_every=1, checkpoint_every=100)
    for seconds, saved in ((3600.0, []), (0.0, ["checkpoint-00000001.pt", "checkpoint-00000002.pt"])):
        monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
        folder, files = tmp_path / str(seconds), []

        def look(_numbers, step, folder=folder, files=files):
            if step == 3:
                files += sorted(file.name for file in checkpoint.files(folder))

        train(networks(1), batches(1), params, ALONE, folder, look)
        assert files == saved


def test_term_that_ends_ffmpeg_as_well_costs_a_picture_and_no_checkpoint(tmp_path, monkeypatch):
    params = replace(TRAINING, iterations=10**6, checkpoint_every=10**6, samples_every=2)

    def write_mp4(*_):
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("ffmpeg failed")

    monkeypatch.setattr("pipeline.training.pictures.write_mp4", write_mp4)
    with pytest.raises(SystemExit) as ended:
        train(networks(1), batches(1), params, ALONE, tmp_path)
    assert ended.value.code == 143
    assert [file.name for file in checkpoint.files(tmp_path)] == ["checkpoint-00000002.pt"]  # from before the picture


def test_a_picture_that_cannot_be_written_is_no_secret(tmp_path, monkeypatch):
    def write_mp4(*_):
        raise RuntimeError("ffmpeg failed")

    monkeypatch.setattr("pipeline.training.pictures.write_mp4", write_mp4)
    with pytest.raises(RuntimeError, match="ffmpeg failed"):
        train(networks(1), batches(1), replace(TRAINING, samples_every=2), ALONE, tmp_path)


def test_divergence_stops_with_what_to_try(tmp_path):
    broken = networks(1)
    with torch.no_grad():
        broken.generator.last_conv.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"level 1: a loss is no number .* lower levels\.1\.training\.lr_generator"):
        train(broken, batches(1), TRAINING, ALONE, tmp_path)

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.commands import stages
from pipeline.errors import UserError
from pipeline.generation import artifact
from pipeline.params import Start, load_params
from pipeline.paths import Paths
from pipeline.training import checkpoint
from pipeline.training.loop import Training
from pipeline.training.start import Ancestry, D, G, choose, read
from pipeline.training.step import Networks
from pipeline.training.termination import termination
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, networks, same, train, weights
from tests.stages.fake_project import make_project


def published(folder, trained, **about):
    """A level as training publishes it."""
    about = {"iterations": 6, "start": None, **about}
    artifact.write(folder, trained.generator, trained.discriminators, [], about)
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    own, folder = networks(2), tmp_path_factory.mktemp("trained")
    train(own, batches(2), TRAINING, ALONE, folder)
    return own, published(folder / "level-2", own).parent


@pytest.fixture
def trained(once, tmp_path):
    """Networks after six iterations: themselves, their folder as published, and their last checkpoint."""
    own, folder = once
    shutil.copytree(folder, tmp_path / "given")
    return own, tmp_path / "given" / "level-2", tmp_path / "given" / "checkpoint-00000006.pt"


def begun(tmp_path, path, **changed):
    """A training that begins from `path`, before its first iteration."""
    params = replace(TRAINING, start=choose(path, SECOND, Paths(tmp_path / "elsewhere")), **changed)
    with termination() as stop:
        return Training(networks(2), batches(2), params, ALONE, tmp_path / "begun", stop)


@pytest.mark.parametrize("place", [1, 2], ids=["published", "checkpoint"])
def test_training_begins_from_these_weights_bit_for_bit(trained, tmp_path, place):
    start = begun(tmp_path, trained[place], average=0.9)
    assert same(start.networks, trained[0]) and not same(networks(2), trained[0])
    assert all(map(torch.equal, start.generator.state_dict().values(), trained[0].generator.state_dict().values()))
    assert start.generator is not start.networks.generator and start.step == 0 and start.history == []
    assert not start.networks.optimizer_g.state and not start.networks.optimizer_d.state


def test_of_a_published_average_g_begins_from_that(tmp_path):
    whole = networks(2)
    average = train(whole, batches(2), replace(TRAINING, average=0.9), ALONE, tmp_path / "work").generator
    last = Networks(SECOND, TRAINING, seed=0, workers=ALONE)
    last.generator, last.discriminators = average, whole.discriminators
    assert same(begun(tmp_path, published(tmp_path / "level-2", last)).networks, last) and not same(whole, last)


def test_without_a_published_d_a_new_one_begins(trained, tmp_path):
    (trained[1] / "discriminators.safetensors").unlink()
    start, new = weights(begun(tmp_path, trained[1]).networks), weights(networks(2))
    assert all(
        torch.equal(start[name], new[name] if name.startswith("D.") else weights(trained[0])[name]) for name in new
    )


def test_fine_tuning_takes_other_data_batches_and_rates_and_gives_the_same_bytes_again(trained, tmp_path):
    params = replace(
        TRAINING, batch=2, iterations=4, lr_generator=1e-4, lr_discriminator=2e-4, precision="bfloat16", average=0.9
    )
    data = batches(2, seed=5, window=3)
    tuned = []
    for name in ("one", "two"):
        start = choose(trained[1], SECOND, Paths(tmp_path / "elsewhere"))
        own = Networks(SECOND, params, seed=0, workers=ALONE)
        tuned.append((own, train(own, data, replace(params, start=start), ALONE, tmp_path / name)))
    (one, ended), (two, _) = tuned
    assert same(one, two) and not same(one, trained[0])
    digest = hashlib.sha256()
    for name in ("config.json", "discriminators.safetensors", "generator.safetensors"):
        digest.update((trained[1] / name).read_bytes())
    assert ended.start == {"sha256": digest.hexdigest(), "iterations": 6, "start": None}
    assert [row["step"] for row in ended.history] == [3, 4]


def test_what_began_from_something_says_so_of_itself(trained, tmp_path):
    params = replace(TRAINING, start=choose(trained[2], SECOND, Paths(tmp_path / "elsewhere")), iterations=2)
    first = train(networks(2), batches(2), params, ALONE, tmp_path / "first")
    of_checkpoint = begun(tmp_path, checkpoint.files(tmp_path / "first")[0]).start
    of_published = begun(tmp_path, published(tmp_path / "again", networks(2), iterations=2, start=first.start)).start
    for start in (of_checkpoint, of_published):
        assert start is not None and start["iterations"] == 2
        assert start["start"] == {
            "sha256": hashlib.sha256(trained[2].read_bytes()).hexdigest(),
            "iterations": 6,
            "start": None,
        }


def test_interrupted_it_goes_on_and_needs_the_start_no_more(trained, tmp_path):
    params = replace(TRAINING, start=choose(trained[1], SECOND, Paths(tmp_path / "elsewhere")))
    whole = networks(2)
    ended = train(whole, batches(2), params, ALONE, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_at_3(row, step):
        raise Stop

    with pytest.raises(Stop):
        train(networks(2), batches(2), params, ALONE, tmp_path / "cut", stop_at_3)
    shutil.rmtree(trained[1])
    resumed = networks(2)
    again = train(resumed, batches(2), params, ALONE, tmp_path / "cut")
    assert same(whole, resumed) and again.start == ended.start and ended.start is not None


def cut(file):
    file.write_bytes(file.read_bytes()[:1000])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # of the last weight, which stays a number
    file.write_bytes(content)


def saved(value):
    return lambda file: torch.save(value, file)


def edited(file, **changed):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def first_tensor(folder, change):
    tensors = load_file(folder / "discriminators.safetensors")
    name = "spatial.blocks.0.conv1.weight"
    save_file({**tensors, name: change(tensors[name])}, folder / "discriminators.safetensors")


PUBLISHED, CHECKPOINT = 1, 2
NO_LEVEL, NEITHER = "no checkpoint of a level", "neither a checkpoint nor"
DAMAGED = {
    "a checkpoint that is cut": (CHECKPOINT, cut, "no readable state dict"),
    "a checkpoint of something else": (CHECKPOINT, saved([1]), NO_LEVEL),
    "a checkpoint of a tensor": (CHECKPOINT, saved(torch.zeros(3)), f"{NO_LEVEL}: it holds a Tensor"),
    "a checkpoint without D": (CHECKPOINT, saved({"step": 1, "extra": {}, "generator": {}}), NO_LEVEL),
    "tensors that are cut": (PUBLISHED, lambda folder: cut(folder / "generator.safetensors"), "no readable state dict"),
    "a flipped bit of G": (PUBLISHED, lambda folder: flipped(folder / G), "its generator: another checksum"),
    "a flipped bit of D": (PUBLISHED, lambda folder: flipped(folder / D), "its discriminators: another checksum"),
    "no G": (PUBLISHED, lambda folder: (folder / "generator.safetensors").unlink(), NEITHER),
    "no config": (PUBLISHED, lambda folder: (folder / "config.json").unlink(), "cannot be read"),
    "a config of brackets": (PUBLISHED, lambda folder: (folder / "config.json").write_text("[" * 10**5), NO_LEVEL),
    "a config of 2 MiB": (PUBLISHED, lambda folder: (folder / "config.json").write_text(" " * 2**21), NEITHER),
    "a config of nothing": (PUBLISHED, lambda folder: (folder / "config.json").write_text("null"), NO_LEVEL),
    "no iterations": (PUBLISHED, lambda folder: edited(folder / "config.json", iterations="x"), "iterations"),
    "no ancestry": (PUBLISHED, lambda folder: edited(folder / "config.json", start={"sha256": "x"}), "start.sha256"),
    "a tensor too short": (
        PUBLISHED,
        lambda folder: first_tensor(folder, lambda t: t[:-1].clone()),
        r"does not fit level 2: its discriminators: spatial\.blocks\.0\.conv1\.weight has shape \(1, ",
    ),
    "a tensor of no numbers": (
        PUBLISHED,
        lambda folder: first_tensor(folder, lambda t: t * torch.nan),
        "its discriminators: spatial.* holds NaN",
    ),
}


def refused(path, config, root, message):
    with pytest.raises(UserError, match=message) as caught:
        choose(path, config, Paths(root))
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not root.exists()


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_one_line(trained, tmp_path, name):
    which, damage, message = DAMAGED[name]
    damage(trained[which])
    refused(trained[which], SECOND, tmp_path / "elsewhere", message)


@pytest.mark.parametrize("which", [PUBLISHED, CHECKPOINT])
def test_another_network_is_refused_by_its_first_wrong_tensor(trained, tmp_path, which):
    wider = replace(SECOND, generator=replace(SECOND.generator, channels=4))
    first, second = r"its generator: \S+ (has shape|is missing)", r"its generator: \S+ has shape .*, not "
    refused(trained[which], FIRST, tmp_path / "elsewhere", f"does not fit level 1: {first}")
    refused(trained[which], wider, tmp_path / "elsewhere", f"does not fit level 2: {second}")


@pytest.mark.parametrize("which", [PUBLISHED, CHECKPOINT])
def test_another_file_than_the_one_of_the_hash_is_refused(trained, tmp_path, which):
    start = choose(trained[which], SECOND, Paths(tmp_path / "elsewhere"))
    file = trained[which] if which == CHECKPOINT else trained[which] / "discriminators.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with termination() as stop, pytest.raises(UserError, match="is another than when it was chosen, of SHA-256") as one:
        Training(networks(2), batches(2), replace(TRAINING, start=start), ALONE, tmp_path / "begun", stop)
    assert str(one.value).startswith(f"levels.2.training.start: {trained[which]} is another")


def test_what_training_replaces_is_kept_beside(trained, tmp_path, monkeypatch):
    paths = Paths(tmp_path / "checkout")
    experiment = paths.root / ".dvc" / "tmp" / "exps" / "one"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)  # a copy of DVC's, in which a relative path is the checkout's all the same
    for place, source in ((paths.artifact(2), trained[1]), (paths.state / "work" / "a" / "checkpoint.pt", trained[2])):
        place.parent.mkdir(parents=True)
        source.rename(place)
        start = choose(place, SECOND, paths)
        assert Path(start.path) == paths.state / "starts" / start.sha256[:16]
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        assert same(begun(tmp_path, Path(start.path)).networks, trained[0])
        relative = Start(path=str(Path(start.path).relative_to(paths.root)), sha256=start.sha256)
        assert read(relative, SECOND)[1] == Ancestry(sha256=start.sha256, iterations=6)


def test_from_becomes_a_parameter(tmp_path, monkeypatch, capsys):
    paths = make_project(tmp_path / "checkout")
    params = load_params(paths.params)
    monkeypatch.chdir(paths.root)
    own = Networks(params.level(2), params.levels["2"].training, seed=3, workers=ALONE)
    artifact.write(tmp_path / "given", own.generator, own.discriminators, [], {"iterations": 9, "start": None})
    before = paths.params.read_text()
    with pytest.raises(UserError, match="does not fit level 1"):
        stages._begin_from(tmp_path / "given", "train", 1, False)
    for stage, dry_run in (("generate", False), ("train", True)):
        with pytest.raises(UserError, match="--from: is for train"):
            stages._begin_from(tmp_path / "given", stage, 2, dry_run)
    assert paths.params.read_text() == before
    stages._begin_from(tmp_path / "given", "train", 2, False)
    start = load_params(paths.params).levels["2"].training.start
    assert start is not None and start.path == str(tmp_path / "given")
    assert capsys.readouterr().out == f"params.yaml: levels.2.training.start={json.dumps(vars(start))}\n"
    assert load_params(paths.params).levels["1"].training.start is None
    assert not (paths.state / "starts").exists()

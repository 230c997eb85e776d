import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.unroll import recalibrate, use_statistics
from pipeline.errors import UserError
from pipeline.generation import artifact
from tests.models.level_configs import SECOND
from tests.pipeline.training.tiny import batches, dummy, networks


@pytest.fixture
def published(tmp_path):
    trained = networks(2)
    generator = trained.generator
    clips = batches(2).fake_clips(0, range(4))
    inputs = dummy(clips)
    statistics = {
        split: (sigma, recalibrate(generator, [dummy(clips, sigma)]))
        for split, sigma in (("samples", 1.0), ("figures", 0.5))
    }
    about = {"classes": ["a", "b", "c"]}
    artifact.write(tmp_path, generator, trained.discriminators, statistics, [{"step": 1, "loss": 0.5}], about)
    return tmp_path, generator, statistics, inputs


def repack(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors, as of a version that wrote no checksum."""
    save_file(tensors, folder / "generator.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps(config))


def test_what_is_published_generates_the_same(published):
    folder, generator, statistics, inputs = published
    for split, (sigma, values) in statistics.items():
        read = artifact.read(folder, split, sigma, SECOND)
        assert read.config == SECOND
        assert not read.training
        use_statistics(generator, values)
        assert torch.equal(read(*inputs), generator.eval()(*inputs))
    assert (folder / "history.csv").read_text() == "step,loss\n1,0.5\n"


def test_the_same_generator_gives_the_same_bytes(published, tmp_path):
    folder, generator, statistics, _ = published
    artifact.write(tmp_path / "again", generator, networks(2).discriminators, statistics, [], {})
    assert artifact.digest(tmp_path / "again") == artifact.digest(folder)


def test_files_that_do_not_belong_together_are_refused(published):
    folder = published[0]
    with pytest.raises(UserError, match=r"recalibrated for sigma 0\.5, not 0\.7"):
        artifact.read(folder, "figures", 0.7, SECOND)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["generator"]["channels"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        artifact.read(folder, "samples", 1.0, SECOND)
    (folder / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"generator\.safetensors: cannot be read .*train the level"):
        artifact.read(folder, "samples", 1.0, SECOND)
    with pytest.raises(UserError, match=r"config\.json: cannot be read .*train the level"):
        artifact.read(folder / "elsewhere", "samples", 1.0, SECOND)


def put(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(config: dict[str, Any]) -> Any:
        *above, last = path.split(".")
        place = config
        for key in above:
            place = place[key]
        place[last] = value
        return config

    return edit


EDITS = {
    "another level": put("config.level", 1),
    "no condition": put("config.condition", None),
    "a size in words": put("config.view.size", "big"),
    "a size of another view": put("config.view.size", 17),
    "a size below nothing": put("config.view.size", -16),
    "no multipliers": put("config.generator.multipliers", []),
    "multipliers of 0": put("config.generator.multipliers", [0, 0]),
    "many multipliers": put("config.generator.multipliers", [1] * 40),
    "a billion classes": put("config.classes", 10**9),
    "channels above all": put("config.generator.channels", 10**30),
    "negative channels": put("config.generator.channels", -8),
    "noise without end": put("config.generator.noise", 2**62),
    "another layer": put("config.generator.temporal_layer", "lstm"),
    "true for a number": put("config.classes", True),
    "no generator": lambda config: {**config, "config": {**config["config"], "generator": None}},
    "no statistics": lambda config: {"config": config["config"]},
    "statistics that are none": put("statistics.sigma", [1.0]),
    "an empty mapping": lambda _: {},
    "nothing": lambda _: None,
    "a list": lambda _: [],
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_config_is_one_line(published, name):
    folder = published[0]
    before = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(EDITS[name](before)))
    with pytest.raises(UserError) as caught:
        artifact.read(folder, "samples", 1.0, SECOND)
    assert str(caught.value).startswith(str(folder)) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * 2**21 + b"}", b"{", None])
def test_a_config_that_is_no_json_is_one_line(published, content):
    file = published[0] / "config.json"
    file.unlink()
    file.write_bytes(content) if content is not None else file.mkdir()
    with pytest.raises(UserError, match=r"config\.json: ") as caught:
        artifact.read(published[0], "samples", 1.0, SECOND)
    assert len(str(caught.value).splitlines()) == 1


def test_statistics_of_another_length_or_of_no_numbers_are_refused(published):
    folder = published[0]
    tensors = load_file(folder / "generator.safetensors")
    name = next(key for key in tensors if key.startswith("statistics.samples."))
    for changed in (tensors[name][:-1].clone(), tensors[name] * torch.nan):
        repack(folder, {**tensors, name: changed})
        with pytest.raises(UserError, match=r"does not fit config\.json"):
            artifact.read(folder, "samples", 1.0, SECOND)
        assert artifact.read(folder, "figures", 0.5, SECOND)


def test_tensors_of_other_shapes_are_refused(published):
    folder = published[0]
    tensors = load_file(folder / "generator.safetensors")
    for name in ("generator.", "statistics.samples."):
        which = next(key for key in tensors if key.startswith(name))
        repack(folder, {**tensors, which: tensors[which][:-1].clone()})
        if name == "generator.":
            with pytest.raises(UserError, match="its networks are others"):
                artifact.read(folder, "samples", 1.0, SECOND)
        repack(folder, {key: t for key, t in tensors.items() if key != which})
        with pytest.raises(UserError, match=r"does not fit config\.json"):
            artifact.read(folder, "samples", 1.0, SECOND)
    (folder / "generator.safetensors").unlink()
    (folder / "generator.safetensors").mkdir()
    with pytest.raises(UserError, match=r"generator\.safetensors: cannot be read .*train the level"):
        artifact.read(folder, "samples", 1.0, SECOND)


def fuzz(folder: Path, inputs: tuple[Any, ...], tries: int) -> int:
    """How many of so many damages were told; the others changed nothing of what is generated."""
    expected = artifact.read(folder, "samples", 1.0, SECOND)(*inputs)
    told, draw = 0, random.Random(0)  # noqa: S311 - no secret
    for _ in range(tries):
        file = folder / draw.choice(["config.json", "generator.safetensors"])
        content = file.read_bytes()
        place = draw.randrange(len(content))
        change = bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :] if draw.random() < 0.8 else b""
        file.write_bytes(content[:place] + change)
        try:
            assert torch.equal(artifact.read(folder, "samples", 1.0, SECOND)(*inputs), expected)
        except UserError as error:
            assert str(error).startswith(str(folder)) and len(str(error).splitlines()) == 1
            told += 1
        file.write_bytes(content)
    return told


def test_a_damaged_level_is_told_of_or_harmless(published):
    assert fuzz(published[0], published[3], 60) > 30


@pytest.mark.slow
def test_any_damaged_level_is_told_of_or_harmless(published):
    assert fuzz(published[0], published[3], 600) > 300


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["config.json", "generator.safetensors"])
@pytest.mark.parametrize("other", [Path.mkdir, os.mkfifo, lambda file: file.symlink_to("/dev/zero"), lambda _: None])
def test_what_is_no_file_is_told(published, name, other):
    (published[0] / name).unlink()
    other(published[0] / name)
    with pytest.raises(UserError, match=rf"{name}: .*train the level"):
        artifact.read(published[0], "samples", 1.0, SECOND)

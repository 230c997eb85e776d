import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.generator import Generator
from models.unroll import recalibrate, use_statistics
from pipeline.errors import UserError
from pipeline.generation import artifact
from pipeline.generation.statistics import FILE, read_statistics, write_statistics
from tests.models.level_configs import SECOND
from tests.pipeline.training.tiny import batches, dummy, networks


@pytest.fixture
def published(tmp_path):
    trained = networks(2)
    generator = trained.generator
    clips = batches(2).fake_clips(0, range(4))
    inputs = dummy(clips)
    about = {"classes": ["a", "b", "c"]}
    artifact.write(tmp_path, generator, trained.discriminators, [{"step": 1, "loss": 0.5}], about)
    statistics = recalibrate(generator, [inputs])
    (tmp_path / "store").mkdir()
    write_statistics(tmp_path / "store", statistics, **OF, digest=artifact.digest(tmp_path))
    return tmp_path, generator, statistics, inputs


OF = {"sigma": 0.5, "frames": 8}


def read(folder: Path, **of: Any) -> Generator:
    generator, digest = artifact.read(folder, SECOND), artifact.digest(folder)
    return read_statistics(folder / "store", generator, **{**OF, "digest": digest, **of})


def repack(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors, as of a version that wrote no checksum."""
    save_file(tensors, folder / "generator.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps(config))


def test_what_is_published_generates_the_same(published):
    folder, generator, statistics, inputs = published
    again = read(folder)
    assert again.config == SECOND
    assert not again.training
    use_statistics(generator, statistics)
    assert torch.equal(again(*inputs), generator.eval()(*inputs))
    assert (folder / "history.csv").read_text() == "step,loss\n1,0.5\n"


def test_the_same_generator_gives_the_same_bytes(published, tmp_path):
    folder, generator, _, _ = published
    artifact.write(tmp_path / "again", generator, networks(2).discriminators, [], {})
    assert artifact.digest(tmp_path / "again") == artifact.digest(folder)


def test_the_same_statistics_give_the_same_bytes(published, tmp_path):
    _, _, statistics, _ = published
    for number in range(8):  # one order of two entries among these by chance in 128 alone
        write_statistics(tmp_path / str(number), statistics, sigma=0.5, frames=4, digest="a" * 64)
    assert len({(tmp_path / str(number) / FILE).read_bytes() for number in range(8)}) == 1


def test_files_that_do_not_belong_together_are_refused(published):
    folder = published[0]
    others: list[dict[str, Any]] = [{"sigma": 0.7}, {"frames": 12}, {"digest": "a" * 64}]
    for other in others:
        with pytest.raises(UserError, match=r"safetensors: recalibrated for another level, sigma or length: .*0\.5"):
            read(folder, **other)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["generator"]["channels"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        artifact.read(folder, SECOND)
    (folder / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"generator\.safetensors: cannot be read .*train the level"):
        artifact.read(folder, SECOND)
    with pytest.raises(UserError, match=r"config\.json: cannot be read .*train the level"):
        artifact.read(folder / "elsewhere", SECOND)


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
    "an older format": put("format", 1),
    "no format": lambda config: {"config": config["config"]},
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
        artifact.read(folder, SECOND)
    assert str(caught.value).startswith(str(folder)) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * 2**21 + b"}", b"{", None])
def test_a_config_that_is_no_json_is_one_line(published, content):
    file = published[0] / "config.json"
    file.unlink()
    file.write_bytes(content) if content is not None else file.mkdir()
    with pytest.raises(UserError, match=r"config\.json: ") as caught:
        artifact.read(published[0], SECOND)
    assert len(str(caught.value).splitlines()) == 1


def test_statistics_that_are_others_are_refused(published):
    folder = published[0]
    file = folder / "store" / FILE
    tensors, about = load_file(file), safe_open(file, framework="pt").metadata()
    name = next(iter(tensors))
    without = {key: t for key, t in tensors.items() if key != name}
    for changed in (
        {**tensors, name: tensors[name] * torch.nan},
        {**tensors, name: tensors[name][:, 1:].clone()},
        without,
    ):
        save_file(changed, file, about)
        with pytest.raises(UserError, match=r"statistics\.safetensors: cannot be read .*`dvc repro` makes that store"):
            read(folder)
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"statistics\.safetensors: cannot be read"):
        read(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"statistics\.safetensors: cannot be read .*`dvc repro` makes that store"):
        read(folder)


def test_tensors_of_other_shapes_are_refused(published):
    folder = published[0]
    tensors = load_file(folder / "generator.safetensors")
    which = next(iter(tensors))
    repack(folder, {**tensors, which: tensors[which][:-1].clone()})
    with pytest.raises(UserError, match="its networks are others"):
        artifact.read(folder, SECOND)
    repack(folder, {key: t for key, t in tensors.items() if key != which})
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        artifact.read(folder, SECOND)
    (folder / "generator.safetensors").unlink()
    (folder / "generator.safetensors").mkdir()
    with pytest.raises(UserError, match=r"generator\.safetensors: cannot be read .*train the level"):
        artifact.read(folder, SECOND)


def fuzz(folder: Path, inputs: tuple[Any, ...], tries: int) -> int:
    """How many of so many damages were told; the others changed nothing of what is generated."""
    expected = read(folder)(*inputs)
    told, draw = 0, random.Random(0)  # noqa: S311 - no secret
    for _ in range(tries):
        file = folder / draw.choice(["config.json", "generator.safetensors", f"store/{FILE}"])
        content = file.read_bytes()
        place = draw.randrange(len(content))
        change = bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :] if draw.random() < 0.8 else b""
        file.write_bytes(content[:place] + change)
        try:
            assert torch.equal(read(folder)(*inputs), expected)
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
        artifact.read(published[0], SECOND)

"""Whatever becomes of a store's files: it is read as it was written, or one line names the file and the way out."""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.store.codecs import Codec
from pipeline.data.store.opening import finished_size, place_of, read_table
from pipeline.data.store.reader import ViewReader
from pipeline.data.store.writer import StoreWriter
from pipeline.errors import UserError
from pipeline.metrics.clip_sets import open_set
from tests.pipeline.data.store.test_store import fill, index

SEED = 0
FILES = ["zarr.json", "level-1/zarr.json", "level-2/zarr.json", "videos.parquet", "level-1/c/0/0/0/0/0",
         "level-2/c/0/1/0/0/0", "level-2/c/2/0/0/0/0"]  # fmt: skip
ODD: list[Any] = [None, True, -1, 0, 1, 3, 10**9, 2**63, 10**30, 1.5, "", "x", "uint16", [], [1], {}, {"a": 1}]


@pytest.fixture(scope="module", params=["none", "jpeg"])
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store"
    views = {1: (500, 2), 2: (1000, 4)}
    writer = StoreWriter(path, views=views, videos=5, shard_videos=2, codec=Codec(request.param))
    fill(writer)
    writer.finish(index().assign(path="a", fps=24.0), kind="pyramid", classes=["a", "b"], frame_step=2)
    return path


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "store"))


def everything(path: Path) -> list[Any]:
    """All that is read of a store by what trains, generates, measures and shows."""
    found: list[Any] = [read_table(path).to_dict("list"), finished_size(path).files]
    for level in (1, 2):
        for in_memory in (0, 2**20):
            reader = ViewReader(path, level, "train", in_memory=in_memory)
            found += [reader.classes, reader.digest, reader.size, reader.labels.tolist(), reader.n_frames.tolist()]
            found += [reader.read(video, 0, int(n)).tobytes() for video, n in enumerate(reader.n_frames)]
    side = open_set(path, split="train", frame_step=1)
    return [*found, side.digest, side.frame_step, *(clip.tobytes() for clip in side.clips(3, 4))]


def refused(path: Path, expected: list[Any]) -> bool:
    """Whether one line says what is damaged; if it is not, all is as it was."""
    try:
        found = everything(path)
    except UserError as error:
        line = " ".join(str(error).split())
        assert str(path) in line and len(line) < 600 and any(way in line for way in ("dvc repro", "decode")), line
        return True
    assert found == expected
    return False


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


def edited(content: bytes, draw: random.Random) -> bytes:
    """JSON with another value in one place, or without it."""
    values = json.loads(content)
    *above, last = draw.choice(list(places(values)))
    inner = values
    for key in above:
        inner = inner[key]
    if draw.random() < 0.2:
        del inner[last]
    else:
        inner[last] = copy.deepcopy(draw.choice(ODD))
    return json.dumps(values).encode()


def flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def fuzz(store: Path, tries: int) -> int:
    """How many of so many damages were told; the others changed nothing."""
    expected, told, draw = everything(store), 0, random.Random(SEED)  # noqa: S311 - no secret
    for _ in range(tries):
        file = store / draw.choice(FILES)
        content = file.read_bytes()
        kinds: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut]
        damage = draw.choice([*kinds, edited, edited] if file.suffix == ".json" else kinds)
        file.write_bytes(damage(content, draw))
        told += refused(store, expected)
        file.write_bytes(content)
    return told


def test_a_damaged_store_is_told_of_or_harmless(store):
    assert fuzz(store, 60) > 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_damaged_store_is_told_of_or_harmless(store):
    assert fuzz(store, 400) > 200


@pytest.mark.parametrize("attributes", [None, [], "text"])
def test_attributes_that_are_no_mapping_are_told(store, attributes):
    facts = json.loads((store / "zarr.json").read_bytes())
    (store / "zarr.json").write_text(json.dumps({**facts, "attributes": attributes}))
    with pytest.raises(UserError, match=r"zarr\.json: cannot be read .*not a mapping.*dvc repro --force"):
        place_of(store)


OTHERS: dict[str, Callable[[Path], Any]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
    "nothing": lambda _: None,
    "empty": Path.touch,
    "garbage": lambda file: file.write_bytes(bytes(range(256)) * 4),
    "an open brace": lambda file: file.write_text("{"),
    "null": lambda file: file.write_text("null"),
    "no end of brackets": lambda file: file.write_text("[" * 100_000),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_such_file_is_told(store, tmp_path, other):
    for name in FILES:
        (store / name).rename(tmp_path / "away")
        OTHERS[other](store / name)
        assert refused(store, []), name
        (store / name).rmdir() if other == "a folder" else (store / name).unlink(missing_ok=True)
        (tmp_path / "away").rename(store / name)


def test_a_store_of_an_earlier_version_has_no_checksums_and_is_read(store):
    expected = everything(store)
    said = json.loads((store / "zarr.json").read_text())
    for name in ("table", "checksum"):
        del said["attributes"][name]
    (store / "zarr.json").write_text(json.dumps(said))
    assert not refused(store, expected)
    table = read_table(store)
    table.assign(n_frames=np.int64(999)).to_parquet(store / "videos.parquet")
    assert refused(store, [])

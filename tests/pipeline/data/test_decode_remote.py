"""A pyramid whose arrays lie at a URL: here fsspec's local file system, which every store of its kind acts like."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from pipeline.data.decode import decode
from pipeline.data.decode_pool import Decoding, Shard, decode_shards
from pipeline.data.store.reader import ViewReader
from pipeline.data.store.writer import StoreWriter
from pipeline.errors import UserError
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import film, params, tree
from tests.pipeline.data.test_decode_restart import begin, notes, stage


def remote(folder: Path, scheme: str) -> tuple[Paths, Path, str]:
    """A project, the folder that its store is, and the store's URL."""
    there = folder / "there"
    url = f"{scheme}://{there}"
    return begin(folder / "remote", 9, store=url), there, url


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_pyramid_at_a_url(tmp_path, scheme):
    paths, there, url = remote(tmp_path, scheme)
    local = Paths(tmp_path / "local")
    shutil.copytree(paths.root, local.root)
    decode(params(max_failed=0.5), local, 1)
    decode(params(max_failed=0.5, store=url), paths, 2)

    (folder,) = there.iterdir()
    pointer = json.loads((paths.pyramid / "store.json").read_text())
    assert pointer["url"] == f"{url}/{folder.name}"
    files = {str(file.relative_to(folder)): file for file in folder.glob("level-*/c/**/*") if file.is_file()}
    assert pointer["files"] == {
        key: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for key, file in files.items()
    }
    tables = {"videos.parquet", "failed.csv", "short.csv", "missing.csv", "unlisted.csv"}
    assert tree(paths.pyramid).keys() == tables | {"store.json"}
    arrays = {name: content for name, content in tree(local.pyramid).items() if name not in tables}
    assert tree(folder) == arrays  # of the local pyramid, to the byte
    for level in (1, 2):
        here, far = (ViewReader(project.pyramid, level, in_memory=0) for project in (local, paths))
        assert len(far) == 9
        assert far.digest == here.digest == pointer["digest"]
        for video in range(9):
            length = int(here.n_frames[video])
            assert np.array_equal(far.read(video, 0, length), here.read(video, 0, length))

    before = tree(paths.pyramid), tree(folder)
    shutil.rmtree(paths.pyramid)
    decode(params(max_failed=0.5, store=url), paths, 2)
    assert (tree(paths.pyramid), tree(folder)) == before


@pytest.mark.parametrize("scheme", ["file", "local"])
@pytest.mark.parametrize("place", ["data/pyramid", "data/pyramid/a", "data/samples", "artifacts", ".hvg/a", "link"])
def test_no_store_lies_where_it_would_be_replaced(tmp_path, scheme, place):
    paths, _, _ = remote(tmp_path, scheme)
    (paths.root / "link").symlink_to("reports/media")
    before = tree(paths.root)
    with pytest.raises(UserError, match=r"decode\.store: .* is in a folder that the pipeline or git makes anew"):
        decode(params(max_failed=0.5, store=f"{scheme}://{paths.root / place}"), paths, 1)
    assert tree(paths.root) == before


@pytest.mark.slow
def test_a_killed_decode_to_a_url_goes_on(tmp_path):
    paths, there, _ = remote(tmp_path / "a", "file")
    whole, at_once, same = remote(tmp_path / "b", "file")
    decode(params(max_failed=0.5, store=same), whole, 2)
    known: dict[str, int] = {}
    for _ in range(3):
        with stage(paths) as process:
            while notes(paths).keys() <= known.keys() and process.poll() is None:
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
        found = notes(paths)
        assert known.items() <= found.items()
        known = found
    with stage(paths) as process:
        assert process.wait() == 0
    (folder,), (expected,) = there.iterdir(), at_once.iterdir()
    assert folder.name != expected.name  # where it lies belongs to what it is made from
    assert tree(folder) == tree(expected)
    pointers = [json.loads((project.pyramid / "store.json").read_text()) for project in (paths, whole)]
    assert pointers[0]["files"] == pointers[1]["files"]


def written(folder: Path, url: str, value: int) -> StoreWriter:
    writer = StoreWriter(folder / "store", views={1: (4, 8)}, videos=2, shard_videos=1, url=url)
    for row in range(2):
        writer.write(row, {1: np.full((1, 4, 8, 8, 3), value, np.uint8)})
    table = pd.DataFrame({"row": [0, 1], "split": "train", "n_frames": 4, "label": -1})
    writer.finish(table, kind="pyramid", classes=())
    return writer


class _Refused(Exception):
    """As cloud libraries have them: no OSError."""


def refuse(*_: Any, **__: Any) -> None:
    raise _Refused("no credentials")


class PutRefused(Decoding):
    """A store whose library gives its own errors to a worker that writes a file there."""

    def writer(self) -> StoreWriter:
        writer = super().writer()
        if multiprocessing.parent_process() is not None:  # fsspec shares a file system between all of a process
            there: Any = writer._there
            there.put_file = refuse
        return writer


class OpenRefused(Decoding):
    """A store that the workers do not reach, though their parent did."""

    def writer(self) -> StoreWriter:
        if multiprocessing.parent_process() is not None:
            raise UserError("decode.store: file:///there cannot be written: no route")
        return super().writer()


@pytest.mark.parametrize(("kind", "said"), [(PutRefused, "_Refused: no credentials"), (OpenRefused, "no route")])
def test_what_a_store_says_to_a_worker_costs_no_video(tmp_path, kind, said):
    film(tmp_path / "v" / "a.mp4", 8)
    decoding = kind(params(store=f"file://{tmp_path}/there"), tmp_path / "v", tmp_path, 1)
    with pytest.raises(UserError, match=rf"decode\.store: .*/there cannot be written: {said}; mend it"):
        decode_shards([Shard(0, ("a.mp4",))], decoding, 1)
    assert not decoding.writer().done(0)


def test_a_store_that_goes_away_before_the_end(tmp_path, monkeypatch):
    paths, there, url = remote(tmp_path, "file")
    with monkeypatch.context() as patch:
        patch.setattr(zarr, "open_group", refuse)
        with pytest.raises(UserError, match=rf"decode\.store: {url} cannot be written: _Refused: no credentials"):
            decode(params(max_failed=0.5, store=url), paths, 1)
    assert not paths.pyramid.exists()
    decode(params(max_failed=0.5, store=url), paths, 1)
    assert paths.pyramid.is_dir()
    assert len(list(there.iterdir())) == 1


def test_a_store_that_is_made_again_never_lacks_anything(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/there"
    first = written(tmp_path / "a", url, 7)
    again = StoreWriter(tmp_path / "b" / "store", views={1: (4, 8)}, videos=2, shard_videos=1, url=url)
    monkeypatch.setattr(type(again._there), "put_file", refuse)
    with pytest.raises(UserError, match="_Refused: no credentials"):
        again.write(0, {1: np.full((1, 4, 8, 8, 3), 7, np.uint8)})
    reader = ViewReader(first.path, 1, in_memory=0)
    assert [int(reader.read(video, 0, 4).mean()) for video in range(2)] == [7, 7]


def test_what_an_earlier_attempt_left_behind_the_end_is_removed(tmp_path):
    url = f"file://{tmp_path}/there"
    long = {1: np.zeros((1, 600, 8, 8, 3), np.uint8)}
    for place, given in (("here", None), ("a", url)):
        writer = StoreWriter(tmp_path / place, views={1: (600, 8)}, videos=1, shard_videos=1, url=given)
        writer.write(0, long)
        writer.forget(0)
        writer.write(0, {1: long[1][:, :3]})
        files = [file for file in (tmp_path / ("there" if given else place)).glob("level-1/c/**/*") if file.is_file()]
        assert [file.parts[-4:] for file in files] == [("0", "0", "0", "0")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"store": "file:///proc/none/store"}, r"decode\.store: file:///proc/none/store cannot be written"),
        ({"engine": "ffmpeg"}, "ffmpeg does not run: .*IMAGEIO_FFMPEG_EXE"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(tmp_path, monkeypatch, changed, message):
    paths = begin(tmp_path / "project", 2, **changed)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    with pytest.raises(UserError, match=message):
        decode(params(max_failed=0.5, **changed), paths, 1)


@pytest.mark.parametrize("store", ["memory://x", "file://relative/x", "bucket/x"])
def test_a_store_that_would_keep_nothing_is_refused(store):
    with pytest.raises(UserError, match=r"decode\.store: must"):
        params(store=store)

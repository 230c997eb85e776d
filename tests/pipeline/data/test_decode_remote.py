"""A pyramid whose arrays lie at a URL: here fsspec's local file system, which every store of its kind acts like."""

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.decode import decode
from pipeline.data.store.reader import ViewReader
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import params, tree
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
    tables = {"videos.parquet", "failed.csv", "short.csv", "missing.csv", "unlisted.csv", "summary.html"}
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

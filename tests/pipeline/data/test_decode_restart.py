"""A killed decode goes on to the bytes of one that was not, and does nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.code_hash import code_hash
from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.store.writer import StoreWriter
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import PROJECT, film, params, raw_params, tree

MODULE = "tests.pipeline.data.test_decode_restart"
CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}  # of audit events


def begin(root: Path, videos: int, **decode_params: str) -> Paths:
    """A project of so many films, listed."""
    paths = Paths(root)
    for number in range(videos):
        film(root / "videos" / f"{number:02d}.mp4", 6 + number % 5, number)
    (root / "videos" / "none.mp4").write_bytes(b"no video")
    prepare_listing(params(), paths)
    YAML().dump(raw_params(max_failed=0.5, **decode_params), paths.params)
    return paths


def notes(paths: Paths) -> dict[str, int]:
    """When each finished shard's note was written."""
    found = {}
    for note in paths.state.glob("work/*/pyramid.shards/*.json"):
        found[note.name] = note.stat().st_mtime_ns
    return found


def stage(paths: Paths, *, workers: int = 2, **environment: str) -> subprocess.Popen[bytes]:
    """The stage as a process group of its own."""
    command = [sys.executable, "-m", "stages.decode", "--workers", str(workers)]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    return subprocess.Popen(command, cwd=paths.root, env=variables, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
def test_a_killed_decode_goes_on_to_the_same_bytes(tmp_path):
    whole, again = begin(tmp_path / "whole", 40), Paths(tmp_path / "again")
    shutil.copytree(whole.root, again.root)
    decode(params(max_failed=0.5), whole, 2)
    with stage(again, workers=1) as process:
        while len(notes(again)) < 6 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert not again.pyramid.exists()
    times = notes(again)
    kept: dict[str, int] = {}
    finish = StoreWriter.finish

    def spied(writer: Any, *args: Any, **kwargs: Any) -> str:
        kept.update({name: (writer._notes / name).stat().st_mtime_ns for name in times})
        return finish(writer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "finish", spied)
        decode(params(max_failed=0.5), again, 2)
    assert len(times) >= 6
    assert kept == times  # what was finished was not done again
    assert tree(again.pyramid) == tree(whole.pyramid)


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path):
    """Eight in a row, at moments between the first shard and the end."""
    whole = begin(tmp_path / "whole", 60)
    again = Paths(tmp_path / "again")
    shutil.copytree(whole.root, again.root)
    with stage(whole) as process:
        while not notes(whole):
            time.sleep(0.01)
        begun = time.monotonic()
        assert process.wait() == 0
        lasts = time.monotonic() - begun
    rng = np.random.default_rng(0)
    known: dict[str, int] = {}
    for _ in range(8):
        if again.pyramid.exists():  # killed behind the end: DVC would remove it, too
            shutil.rmtree(again.pyramid)
            known = {}
        with stage(again) as process:
            while notes(again).keys() <= known.keys() < {*range(30)} and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, lasts / 4))
            os.killpg(process.pid, signal.SIGKILL)
        found = notes(again)
        if not again.pyramid.exists():
            assert known.items() <= found.items()  # what was finished was not done again
        known = found
    with stage(again) as process:
        assert process.wait() == 0
    assert tree(again.pyramid) == tree(whole.pyramid)
    assert not list((again.state / "work").iterdir())


def killed_at_each_change(folder: Path) -> None:
    """Finish copies of the project folder/begun, each killed at its next change of a file, and go on with it.

    Each in a fork of a process that has no threads, and has read the code: that takes longer than all the rest.
    """
    code_hash("stages.decode")
    for change in range(10_000):
        paths = Paths(folder / f"{change:04d}")
        shutil.copytree(folder / "begun", paths.root)
        code = _forked(paths, change)
        if code == 0:  # it has no more changes
            shutil.rmtree(paths.root)
            return
        assert code == -signal.SIGKILL, code
        assert _forked(paths, None) == 0


def _forked(paths: Paths, change: int | None) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = change

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left is None or event not in CHANGES or str(paths.root) not in str(arguments[0]):
            return
        if event == "open" and arguments[2] & os.O_ACCMODE == os.O_RDONLY:
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(count)
    failed = 1
    try:
        decode(params(max_failed=0.5), paths, 1)
        failed = 0
    finally:
        os._exit(failed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_each_change_of_a_file_while_finishing(tmp_path, monkeypatch):
    whole = begin(tmp_path / "whole", 4)
    begun = Paths(tmp_path / "begun")
    shutil.copytree(whole.root, begun.root)
    decode(params(max_failed=0.5), whole, 1)
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", None)
        with pytest.raises(TypeError):
            decode(params(max_failed=0.5), begun, 1)
    assert len(notes(begun)) == 3
    code = f"from {MODULE} import killed_at_each_change; from pathlib import Path; killed_at_each_change(Path.cwd())"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    expected = tree(whole.pyramid)
    killed = [Paths(folder) for folder in sorted(tmp_path.glob("0*"))]
    assert len(killed) > 50
    for paths in killed:
        assert tree(paths.pyramid) == expected, paths.root
        assert sorted(path.name for path in (paths.root / "data").iterdir()) == ["listing.csv", "pyramid"]
        assert not list((paths.state / "work").iterdir())

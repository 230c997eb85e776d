import threading
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.paths import Paths, alone, origin, publish, write_atomic


def test_publish_replaces_a_folder_whole(tmp_path):
    out, new = tmp_path / "out" / "store", tmp_path / "work" / "store"
    for folder, name in ((out, "old"), (new, "new")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    publish(new, out)
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in out.parent.iterdir()] == ["store"]
    assert not new.exists()


@pytest.mark.parametrize("there", [True, False])
def test_publish_replaces_a_link_and_leaves_what_it_leads_to(tmp_path, there):
    away, new, out = tmp_path / "away", tmp_path / "new", tmp_path / "data" / "out"
    for folder in (new, out.parent, *([away] if there else [])):
        folder.mkdir()
    out.symlink_to(away)
    publish(new, out)
    assert out.is_dir() and not out.is_symlink() and away.exists() is there
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_publish_clears_what_a_kill_left(tmp_path):
    left, other = tmp_path / f".out.{'a' * 32}", tmp_path / f".others.{'a' * 32}"
    for folder in (left, other, tmp_path / "new"):
        folder.mkdir()
    publish(tmp_path / "new", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


def test_publish_where_nothing_was(tmp_path):
    (tmp_path / "new").mkdir()
    publish(tmp_path / "new", tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").is_dir()


def test_write_atomic_leaves_no_trace(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", "one")
    write_atomic(tmp_path / "a" / "b.txt", b"two")
    assert (tmp_path / "a" / "b.txt").read_text() == "two"
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_work_is_named_by_its_inputs(tmp_path):
    paths = Paths(tmp_path)
    first, second = (
        paths.work("train-level-1", "a" * 64, tmp_path / "out"),
        paths.work("train-level-1", "b" * 64, tmp_path / "out"),
    )
    assert first != second
    assert first == paths.work("train-level-1", "a" * 64, tmp_path / "out")
    assert first.is_dir()


def test_experiments_belong_to_their_checkout(tmp_path):
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    assert origin(copy) == tmp_path.resolve()
    assert origin(tmp_path) == tmp_path
    assert Paths(copy).work("train-level-1", "a" * 64, tmp_path / "out").is_relative_to(tmp_path / ".hvg")
    assert Paths(copy).samples(1).is_relative_to(copy)


def test_a_place_that_may_not_be_written_to_is_named_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "artifacts").mkdir()
    monkeypatch.setattr("pipeline.paths.os.access", lambda place, _: place.name != "artifacts")  # root may write all
    with pytest.raises(UserError, match=r"artifacts may not be written to, and .*level-1 is to be in it"):
        Paths(tmp_path).work("train-level-1", "a" * 64, tmp_path / "artifacts" / "level-1")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system here")  # noqa: S108
def test_results_on_another_file_system_are_refused_before_they_are_made(tmp_path):
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:  # noqa: S108
        pytest.skip("no second file system here")
    with pytest.raises(UserError, match="on two file systems"):
        Paths(tmp_path).work("decode", "a" * 64, Path("/dev/shm/data/pyramid"))  # noqa: S108


def test_the_same_work_is_done_by_one_after_the_other(tmp_path):
    work, order = Paths(tmp_path).work("decode", "a" * 64, tmp_path / "out"), []
    began = threading.Event()

    def second():
        began.set()
        with alone(work):
            order.append(("second", work.is_dir()))

    thread = threading.Thread(target=second)
    with alone(work):
        thread.start()
        began.wait()
        with alone(work, rank=1):  # another worker of this job does not wait
            order.append("first")
        work.rmdir()
    thread.join(60)
    assert order == ["first", ("second", True)]

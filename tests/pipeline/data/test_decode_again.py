"""A pyramid that is made already is not decoded again, and one that anyone changed is."""

import shutil

import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.errors import UserError
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import film, params, tree


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    paths = Paths(tmp_path_factory.mktemp("decoded"))
    for number in range(3):
        film(paths.root / "videos" / "train" / "a" / f"{number}.mp4", 20, number)
    (paths.root / "videos" / "train" / "a" / "broken.mp4").write_bytes(b"no video")
    prepare_listing(params(), paths)
    decode(params(max_failed=0.3), paths, 1)
    return paths, tree(paths.pyramid)


def test_it_is_left_as_it_is(decoded):
    paths, _ = decoded
    before = paths.pyramid.stat().st_ino
    decode(params(max_failed=0.3), paths, 1)
    assert paths.pyramid.stat().st_ino == before
    assert not list((paths.state / "work").iterdir())


def cut(paths: Paths, name: str) -> None:
    file = paths.pyramid / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


CHANGES = {
    "a byte of a frame": lambda paths: cut(paths, "level-2/c/0/0/0/0/0"),
    "a byte of a table": lambda paths: cut(paths, "failed.csv"),
    "a file less": lambda paths: (paths.pyramid / "videos.parquet").unlink(),
    "a file more": lambda paths: (paths.pyramid / "more").touch(),
    "nothing left": lambda paths: shutil.rmtree(paths.pyramid),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_made_again(change, decoded):
    paths, whole = decoded
    CHANGES[change](paths)
    assert not paths.pyramid.is_dir() or tree(paths.pyramid) != whole
    decode(params(max_failed=0.3), paths, 1)
    assert tree(paths.pyramid) == whole


def test_other_parameters_judge_anew(decoded):
    paths, whole = decoded
    with pytest.raises(UserError, match=r"1 of 4 videos could not be decoded"):
        decode(params(max_failed=0.1), paths, 1)
    decode(params(min_frames=8, max_failed=0.3), paths, 1)
    decode(params(max_failed=0.3), paths, 1)
    assert tree(paths.pyramid) == whole

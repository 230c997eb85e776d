"""A pyramid that is made already is not decoded again, and one that anyone changed is."""

import shutil
from dataclasses import replace

import pandas as pd
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


FRAMES = "level-2/c/0/0/0/0/0"


def test_what_dvc_removed_is_the_same_files_again(decoded):
    paths, whole = decoded
    before = (paths.pyramid / FRAMES).stat().st_ino
    shutil.rmtree(paths.pyramid)
    for _ in range(2):
        decode(params(max_failed=0.3), paths, 1)
        assert (paths.pyramid / FRAMES).stat().st_ino == before
        assert tree(paths.pyramid) == whole
    assert not list((paths.state / "work").iterdir())


def flip(paths: Paths, name: str) -> None:
    file = paths.pyramid / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [FRAMES, "failed.csv"])
def test_files_that_were_changed_are_made_again(name, decoded):
    paths, whole = decoded
    flip(paths, name)
    assert tree(paths.pyramid) != whole
    decode(params(max_failed=0.3), paths, 1)
    assert tree(paths.pyramid) == whole


def test_a_folder_that_was_changed_is_whole_again(decoded):
    paths, whole = decoded
    (paths.pyramid / "more").touch()
    (paths.pyramid / "videos.parquet").unlink()
    decode(params(max_failed=0.3), paths, 1)
    assert tree(paths.pyramid) == whole


def test_other_annotations_of_the_same_files_are_read(tmp_path):
    paths = Paths(tmp_path)
    for number in range(2):
        film(tmp_path / "videos" / f"{number}.mp4", 20, number)
    chosen = params()
    chosen = replace(chosen, data=replace(chosen.data, layout="table"))
    for labels in (("a", "b"), ("b", "a")):
        (tmp_path / "videos" / "table.csv").write_text(f"path,label\n0.mp4,{labels[0]}\n1.mp4,{labels[1]}\n")
        prepare_listing(chosen, paths)
        decode(chosen, paths, 1)
        assert pd.read_parquet(paths.pyramid / "videos.parquet")["class"].tolist() == list(labels)


def test_other_parameters_judge_anew(decoded):
    paths, whole = decoded
    with pytest.raises(UserError, match=r"1 of 4 videos could not be decoded"):
        decode(params(max_failed=0.1), paths, 1)
    decode(params(min_frames=8, max_failed=0.3), paths, 1)
    decode(params(max_failed=0.3), paths, 1)
    assert tree(paths.pyramid) == whole

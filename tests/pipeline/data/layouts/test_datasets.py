"""The layouts by name, what an index says of itself, and a folder of videos."""

from pathlib import Path

import pytest

from pipeline.data.layouts.datasets import index_videos, reads
from pipeline.data.layouts.index import label_names, make_index, split_of
from pipeline.data.layouts.walk import list_files
from pipeline.errors import UserError
from tests.pipeline.data.layouts.layouts import CLIPS, counts, listing, of, reasons, split_by_path, touch

clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not beside this checkout")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("val", "val"), ("test", "test"), ("validate", "val"), ("Validation", "val")),
        *(("videos_train", "train"), ("train_256", "train"), ("kinetics600_val", "val"), ("kinetics-600_test", "test")),
        *(("bdd100k_videos_train_00", "train"), ("training", None), ("trainval", None), ("train_val", None)),
        *(("", None), ("testing", None), ("k600", None)),
    ],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_nothing_found_names_the_layout():
    with pytest.raises(UserError, match=r"data\.layout: bdd100k: none of the 1 files"):
        index_videos(of("bdd100k"), listing("a.mp4"), Path())


def test_labels():
    found = make_index([("1.mp4", "train", "b"), ("2.mp4", "train", "a"), ("3.mp4", "train", "")])
    assert label_names(found, None) == ("a", "b")
    assert label_names(found, 5) == ("a", "b")
    assert label_names(found, 0) == ()
    with pytest.raises(UserError, match=r"data\.classes: 1, but 2 classes"):
        label_names(found, 1)


def test_missing_videos_have_classes_too():
    found = make_index([("1.mp4", "train", "b")], [("val", "a", "gone")], [("2.mp4", "in no table")])
    assert found.classes == ("a", "b")
    assert list(found.missing.columns) == ["split", "class", "name"]
    assert found.unlisted.to_numpy().tolist() == [["2.mp4", "in no table"]]


def test_folders_are_classes():
    found = index_videos(of("folder"), listing("b/x.mp4", "a/deep/y.mp4", "z.mp4"), Path())
    assert found.videos["class"].tolist() == ["a", "b", ""]
    assert found.classes == ("a", "b")


IMAGES = (
    *("train/a/clip/1.png", "train/a/clip/2.png", "val/b/c1/f_01.JPG", "val/b/c1/f_02.JPG", "3.png"),
    *("train/a/x.mp4", "train/a/1.jpg", "train/a/poster.jpg", "val/poster.jpg", "val/b/.1.png"),
    *("train/c/1.png", "train/c/2.png", "train/c/preview.gif"),
)


def test_folders_of_images_are_videos_where_they_have_a_rate(tmp_path):
    touch(tmp_path, *IMAGES)
    data = of("folder", image_rate=24.0)
    found = index_videos(data, list_files(tmp_path, reads(data)), tmp_path)
    assert found.videos.to_numpy().tolist() == [
        *(["train/a/clip", "train", "a"], ["train/a/x.mp4", "train", "a"], ["train/c/preview.gif", "train", "c"]),
        ["val/b/c1", "val", "b"],
    ]
    # What lies in the root or has no number is none.
    assert reasons(found) == dict.fromkeys(("train/a", "train/c"), "numbered images, but beside a video file")
    plain = of("folder")
    assert list_files(tmp_path, reads(plain))["path"].tolist() == ["train/a/x.mp4", "train/c/preview.gif"]
    with pytest.raises(UserError, match=r"no video under .*; data\.image_rate takes folders of images"):
        list_files(tmp_path / "val", reads(plain))


def test_folders_named_as_splits_are_splits():
    files = ("train/a/x.mp4", "train/y.mp4", "validation/a/z.mp4", "loose.mp4", "other/w.mp4")
    found = index_videos(of("folder"), listing(*files), Path())
    assert found.videos.to_numpy().tolist() == [
        ["train/a/x.mp4", "train", "a"],
        ["train/y.mp4", "train", ""],
        ["validation/a/z.mp4", "val", "a"],
    ]
    why = "beside the folders train, val and test"
    assert reasons(found) == {"loose.mp4": why, "other/w.mp4": why}


def test_without_split_folders_a_tenth_is_val():
    names = [f"{number}.mp4" for number in range(400)]
    all_of_them = split_by_path(index_videos(of("folder"), listing(*names), Path()))
    val = {path for path, split in all_of_them.items() if split == "val"}
    assert 20 < len(val) < 60
    half = split_by_path(index_videos(of("folder"), listing(*names[:200]), Path()))
    assert {path for path, split in half.items() if split == "val"} == val & set(names[:200])  # adding moves none
    for count in range(1, 8):
        few = index_videos(of("folder"), listing(*names[:count]), Path()).videos["split"].tolist()
        assert "train" in few
        assert ("val" in few) == (count > 1)


def test_a_tenth_of_train_is_val_where_nothing_else_is_held_out():
    names = [f"train/{'ab'[number % 2]}/{number}.mp4" for number in range(400)]
    found = index_videos(of("folder"), listing(*names, "loose.mp4"), Path())
    assert 20 < counts(found.videos, "split")["val"] < 60
    assert set(found.videos["split"]) == {"train", "val"}
    assert found.videos.set_index("path").loc["train/b/1.mp4", "class"] == "b"
    assert list(reasons(found)) == ["loose.mp4"]
    held_out = index_videos(of("folder"), listing(*names, "test/a/x.mp4"), Path())
    assert counts(held_out.videos, "split") == {"train": 400, "test": 1}


def test_split_folders_may_be_capitalized():
    found = index_videos(of("folder"), listing("Train/a/x.mp4", "VAL/a/y.mp4", "Test/b/z.mp4"), Path())
    assert found.videos["split"].tolist() == ["test", "train", "val"]
    assert found.classes == ("a", "b")


@clips
def test_real_kinetics():
    root, data = CLIPS / "kinetics", of("kinetics")
    found = index_videos(data, list_files(root, reads(data)), root)
    assert counts(found.videos, "split") == {"train": 23, "val": 4}
    assert found.missing["name"].tolist() == ["-missing0_A_000010_000020", "gone_video__000000_000010"]
    assert found.unlisted.empty


@clips
def test_real_drives():
    root, data = CLIPS / "bdd100k", of("bdd100k")
    found = index_videos(data, list_files(root, reads(data)), root)
    assert counts(found.videos, "split") == {"train": 5, "val": 1}

from pathlib import Path

import pandas as pd
import pytest

from pipeline.data.datasets import index_videos
from pipeline.data.index import label_names, make_index
from pipeline.data.kinetics import parse_name
from pipeline.data.listing import list_files
from pipeline.errors import UserError

CLIPS = Path(__file__).parents[4] / "shared" / "clips"
clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not beside this checkout")


def listing(*paths: str) -> pd.DataFrame:
    return pd.DataFrame({"path": sorted(paths), "size": 1, "mtime": 0})


def test_names_are_read_from_the_right():
    assert parse_name("train/yoga/-a_b_c_000010_000020.mkv") == ("-a_b_c", 10, 20)
    assert parse_name("_000010_000020.mp4") is None
    assert parse_name("x_y_z.mp4") is None
    assert parse_name("x.mp4") is None


def test_kinetics_matches_id_and_times(tmp_path):
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "yoga,-a_b,0,10,train\n"
        "yoga,-a_b,10,20,train\n"
        "dancing (jazz),NA,3,13,train\n"
        "abseiling,gone,0,10,train\n"
    )
    (tmp_path / "kinetics600_validate.csv").write_text("label,youtube_id,time_start,time_end\nyoga,v,1.0,11.0\n")
    (tmp_path / "other.csv").write_text("path,size\nx,1\n")
    found = index_videos(
        "kinetics",
        listing(
            *("train.csv", "kinetics600_validate.csv", "other.csv"),
            *("train/yoga/-a_b_000010_000020.mp4", "train/yoga/-a_b_000000_000010.webm"),
            *("dancing_jazz/NA_000003_000013.avi", "v_000001_000011.mp4"),
            *("zz/v_000001_000011.mkv", "train/yoga/unknown_000000_000010.mp4", "train/yoga/-a_b_000000_000011.mp4"),
        ),
        tmp_path,
    )
    assert found.videos.to_numpy().tolist() == [
        ["dancing_jazz/NA_000003_000013.avi", "train", "dancing (jazz)"],
        ["train/yoga/-a_b_000000_000010.webm", "train", "yoga"],
        ["train/yoga/-a_b_000010_000020.mp4", "train", "yoga"],
        ["v_000001_000011.mp4", "val", "yoga"],
    ]
    assert found.missing.to_numpy().tolist() == [["train", "abseiling", "gone", 0, 10]]
    assert found.unlisted["path"].tolist() == [
        "train/yoga/-a_b_000000_000011.mp4",
        "train/yoga/unknown_000000_000010.mp4",
        "zz/v_000001_000011.mkv",  # a second file of the same clip
    ]
    assert found.classes == ("abseiling", "dancing (jazz)", "yoga")


def test_a_clip_in_two_splits_goes_by_its_folder(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(f"label,youtube_id,time_start,time_end,split\nyoga,a,0,10,{split}\n")
    files = ("train.csv", "val.csv", "train/yoga/a_000000_000010.mp4", "val/yoga/a_000000_000010.mp4")
    found = index_videos("kinetics", listing(*files), tmp_path)
    assert found.videos["split"].tolist() == ["train", "val"]


def test_kinetics_without_tables_says_so(tmp_path):
    with pytest.raises(UserError, match="no CSV with the columns"):
        index_videos("kinetics", listing("a_000000_000010.mp4"), tmp_path)
    (tmp_path / "train.csv").write_text("youtube_id,time_start,time_end\na,soon,10\n")
    with pytest.raises(UserError, match="must be seconds"):
        index_videos("kinetics", listing("train.csv", "a_000000_000010.mp4"), tmp_path)


def test_drives_by_folder():
    drives = ("videos/train/0123abcd-89abcdef.mov", "x/videos/val/0123abcd-00000000.mov", "test/0123abcd-00000001.mov")
    found = index_videos("bdd100k", listing(*drives, "videos/train/holiday.mov", "0123abcd-00000002.mov"), Path())
    assert dict(zip(found.videos["path"], found.videos["split"], strict=True)) == dict(
        zip(drives, ("train", "val", "test"), strict=True)
    )
    assert found.classes == ()
    assert len(found.unlisted) == 2


def test_folders_are_classes():
    found = index_videos("folder", listing("b/x.mp4", "a/deep/y.mp4", "z.mp4"), Path())
    assert found.videos["class"].tolist() == ["a", "b", ""]
    assert found.classes == ("a", "b")


def test_folders_named_as_splits_are_splits():
    found = index_videos("folder", listing("train/a/x.mp4", "train/y.mp4", "val/a/z.mp4", "loose.mp4"), Path())
    assert found.videos.to_numpy().tolist() == [
        ["train/a/x.mp4", "train", "a"],
        ["train/y.mp4", "train", ""],
        ["val/a/z.mp4", "val", "a"],
    ]
    assert found.unlisted["path"].tolist() == ["loose.mp4"]


def test_without_split_folders_a_tenth_is_val():
    names = [f"{number}.mp4" for number in range(400)]
    all_of_them = index_videos("folder", listing(*names), Path()).videos
    val = set(all_of_them.loc[all_of_them["split"] == "val", "path"])
    assert 20 < len(val) < 60
    half = index_videos("folder", listing(*names[:200]), Path()).videos
    assert set(half.loc[half["split"] == "val", "path"]) == val & set(names[:200])  # adding videos moves none
    for count in range(1, 8):
        few = index_videos("folder", listing(*names[:count]), Path()).videos["split"].tolist()
        assert "train" in few
        assert ("val" in few) == (count > 1)


def test_nothing_found_names_the_layout():
    with pytest.raises(UserError, match=r"data\.layout: bdd100k: none of the 1 files"):
        index_videos("bdd100k", listing("a.mp4"), Path())


def test_labels():
    found = make_index([("1.mp4", "train", "b"), ("2.mp4", "train", "a"), ("3.mp4", "train", "")])
    assert label_names(found, None) == ("a", "b")
    assert label_names(found, 5) == ("a", "b")
    assert label_names(found, 0) == ()
    with pytest.raises(UserError, match=r"data\.classes: 1, but 2 classes"):
        label_names(found, 1)


@clips
def test_real_kinetics():
    found = index_videos("kinetics", list_files(CLIPS / "kinetics"), CLIPS / "kinetics")
    assert found.videos["split"].value_counts().to_dict() == {"train": 23, "val": 4}
    assert found.missing["id"].tolist() == ["-missing0_A", "gone_video_"]
    assert found.unlisted["path"].tolist() == []


@clips
def test_real_drives():
    found = index_videos("bdd100k", list_files(CLIPS / "bdd100k"), CLIPS / "bdd100k")
    assert found.videos["split"].value_counts().to_dict() == {"train": 5, "val": 1}


@pytest.mark.parametrize("content", [b"", b"label\xff\n", b'a,b\n"x'])
def test_a_table_that_is_no_csv_is_named(tmp_path, content):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.csv: no readable CSV"):
        index_videos("kinetics", listing("train.csv"), tmp_path)

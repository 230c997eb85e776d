import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.data.listing import list_files, prepare_listing, read_listing, write_listing
from pipeline.errors import UserError
from pipeline.params import parse_params
from pipeline.paths import Paths

RECIPE = Path(__file__).parents[3] / "recipes" / "shapes.yaml"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
        os.utime(root / name, ns=(5, 5))


def test_videos_anywhere_and_tables_at_the_top(tmp_path):
    touch(
        tmp_path, "b/x.MP4", "a.webm", "train.csv", "b/notes.csv", "b/._x.mp4", ".hidden/y.mp4", "readme.txt", "é b.mov"
    )
    listing = list_files(tmp_path)
    assert listing["path"].tolist() == ["a.webm", "b/x.MP4", "train.csv", "é b.mov"]
    assert listing["size"].tolist() == [6, 7, 9, 8]
    assert listing["mtime"].tolist() == [5, 5, 5, 5]


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "root/a/x.mp4", "elsewhere/y.mp4")
    (tmp_path / "root/a/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/disk").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/gone.mp4").symlink_to(tmp_path / "nowhere")
    assert list_files(tmp_path / "root")["path"].tolist() == ["a/x.mp4", "disk/y.mp4"]


def test_mistakes_name_the_parameter(tmp_path):
    with pytest.raises(UserError, match=r"data\.root: .* is no folder; set it with `hvg recipe"):
        list_files(tmp_path / "none")
    touch(tmp_path, "train.csv")
    with pytest.raises(UserError, match="no video under"):
        list_files(tmp_path)
    with pytest.raises(UserError, match="`hvg index` writes it"):
        read_listing(tmp_path / "listing.csv")


def test_a_listing_is_written_only_when_it_changes(tmp_path):
    touch(tmp_path, "a.mp4")
    out = tmp_path / "listing.csv"
    assert write_listing(tmp_path, out)
    before = out.stat().st_mtime_ns, out.read_bytes()
    assert not write_listing(tmp_path, out)  # nor does it list itself
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    touch(tmp_path, "b.mp4")
    assert write_listing(tmp_path, out)
    assert read_listing(out)["path"].tolist() == ["a.mp4", "b.mp4"]


def test_names_survive(tmp_path):
    odd = ["-a,b.mp4", 'c"d.mp4', "e\nf.mp4", "NA.mp4"]
    touch(tmp_path / "v", *odd)
    write_listing(tmp_path / "v", tmp_path / "listing.csv")
    assert sorted(read_listing(tmp_path / "listing.csv")["path"]) == sorted(odd)


def test_a_name_that_no_table_can_hold_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"'\\udcff\.mp4' is not UTF-8"):
        list_files(tmp_path)


def test_the_listing_of_the_recipe(tmp_path):
    raw = YAML(typ="safe").load(RECIPE)
    assert not prepare_listing(parse_params(raw), Paths(tmp_path))  # make-shapes writes it
    raw["shapes"] = {}
    raw["data"] |= {"root": "videos", "listing": "lists/mine.csv"}
    touch(tmp_path / "videos", "a.mp4")
    assert prepare_listing(parse_params(raw), Paths(tmp_path))
    assert (tmp_path / "lists/mine.csv").read_text() == "path,size,mtime\na.mp4,5,5\n"


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, monkeypatch, caplog):
    touch(tmp_path / "v", "a.mp4", "lost+found/b.mp4")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_files(tmp_path / "v")["path"].tolist() == ["a.mp4"]
    assert "'lost+found/' is left out: Permission denied" in caplog.text

import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.data.layouts.datasets import reads
from pipeline.data.layouts.listing import list_root, prepare_listing, read_listing
from pipeline.data.layouts.walk import list_files
from pipeline.errors import UserError
from pipeline.params import Params, parse_params
from pipeline.paths import Paths
from pipeline.progress import COLUMNS
from tests.pipeline.data.layouts.layouts import of

RECIPE = Path(__file__).parents[4] / "recipes" / "shapes.yaml"


def no_tables(path: str) -> bool:
    return False


def params(root: str, listing: str, layout: str = "folder") -> Params:
    raw = YAML(typ="safe").load(RECIPE)
    raw["shapes"] = {}
    raw["data"] |= {"root": root, "listing": listing, "layout": layout}
    return parse_params(raw)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
        os.utime(root / name, ns=(5, 5))


def test_videos_anywhere_and_what_is_asked_for(tmp_path):
    touch(
        tmp_path, "b/x.MP4", "a.webm", "train.csv", "b/notes.csv", "b/._x.mp4", ".hidden/y.mp4", "readme.txt", "é b.mov"
    )
    listing = list_files(tmp_path, lambda path: path == "train.csv")
    assert listing["path"].tolist() == ["a.webm", "b/x.MP4", "train.csv", "é b.mov"]
    assert listing["size"].tolist() == [6, 7, 9, 8]
    assert listing["mtime"].tolist() == [5, 5, 5, 5]


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    touch(tmp_path, "root/a/x.mp4", "elsewhere/y.mp4")
    (tmp_path / "root/a/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/disk").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/gone.mp4").symlink_to(tmp_path / "nowhere")
    assert list_files(tmp_path / "root", no_tables)["path"].tolist() == ["a/x.mp4", "disk/y.mp4"]
    assert [record.getMessage() for record in caplog.records] == ["'gone.mp4' is left out: No such file or directory"]


class Refused:
    """An entry that is a link into a folder one may not enter; root may enter all."""

    name, path = "link.mp4", "link.mp4"

    def is_dir(self):
        raise PermissionError(13, "Permission denied")


def test_a_link_into_what_may_not_be_entered_is_left_out(tmp_path, caplog, monkeypatch):
    touch(tmp_path, "a.mp4")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: [*scandir(folder), Refused()])
    assert list_files(tmp_path, no_tables)["path"].tolist() == ["a.mp4"]
    assert "'link.mp4' is left out: Permission denied" in caplog.text


@pytest.mark.parametrize("suffix", ["m2v", "f4v", "divx", "dv", "ivf", "h264", "HEVC"])
def test_every_format_that_is_opened_is_listed(tmp_path, suffix):
    touch(tmp_path, f"a.{suffix}", "b.mp4")
    assert list_files(tmp_path, no_tables)["path"].tolist() == [f"a.{suffix}", "b.mp4"]


def test_what_cannot_be_looked_at_costs_itself_alone(tmp_path, caplog, monkeypatch):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    (tmp_path / "self").symlink_to("self")
    scandir = os.scandir

    def deleting(folder):
        entries = list(scandir(folder))
        (tmp_path / "b.mp4").unlink(missing_ok=True)  # between the listing and the look
        return entries

    monkeypatch.setattr(os, "scandir", deleting)
    assert list_files(tmp_path, no_tables)["path"].tolist() == ["a.mp4"]
    told = [record.getMessage().partition(" is left out: ") for record in caplog.records]
    assert {name for name, *_ in told} == {"'b.mp4'", "'circle.mp4'", "'self'"} and all(reason for *_, reason in told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<<<<<<< HEAD\npath,size,mtime\n",
        "path,size,mtime\n<<<<<<< HEAD\na.mp4,1,1\n=======\na.mp4,1,2\n>>>>>>> theirs\n",
        "path,size\na.mp4,1\n",
        "path,size,mtime,label,split\na.mp4,1,1,cat,train\n",
        "path,size,mtime\na.mp4,1,1,1\n",
        'path,size,mtime\n"a.mp4,1,1\n',
        "path,size,mtime\na.mp4,large,1\n",
    ],
)
def test_a_listing_that_is_none_is_told(tmp_path, text):
    (tmp_path / "listing.csv").write_text(text)
    with pytest.raises(UserError, match=r"listing\.csv is no listing .*: move it away, and `hvg index`") as error:
        read_listing(tmp_path / "listing.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["path,label\na.mp4,b\n", "path,size,mtime,label\na.mp4,5,5,b\n", None])
def test_what_is_no_listing_is_not_replaced(tmp_path, what):
    touch(tmp_path / "v", "a.mp4")
    place = tmp_path / "data/listing.csv"
    place.parent.mkdir()
    place.write_text(what) if what else place.mkdir()
    with pytest.raises(UserError, match="is no listing"):
        prepare_listing(params("v", "data/listing.csv"), Paths(tmp_path))
    assert place.is_dir() if what is None else place.read_text() == what


@pytest.mark.parametrize("make", [os.mkfifo, lambda place: place.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_no_listing_and_is_not_read(tmp_path, make):
    touch(tmp_path / "v", "a.mp4")
    (tmp_path / "data").mkdir()
    make(tmp_path / "data/listing.csv")
    with pytest.raises(UserError, match=r"is no listing \(no file\): move it away"):
        prepare_listing(params("v", "data/listing.csv"), Paths(tmp_path))


def test_mistakes_name_the_parameter(tmp_path):
    with pytest.raises(UserError, match=r"data\.root: .* is no folder; set it with `hvg recipe"):
        list_files(tmp_path / "none", no_tables)
    touch(tmp_path, "train.csv")
    with pytest.raises(UserError, match="no video under"):
        list_files(tmp_path, no_tables)
    with pytest.raises(UserError, match="`hvg index` writes it"):
        read_listing(tmp_path / "listing.csv")


def test_a_listing_is_written_only_when_it_changes(tmp_path):
    touch(tmp_path, "a.mp4")
    chosen, out = params(".", "data/listing.csv", "table"), tmp_path / "data/listing.csv"
    assert prepare_listing(chosen, Paths(tmp_path))
    before = out.stat().st_mtime_ns, out.read_bytes()
    assert not prepare_listing(chosen, Paths(tmp_path))  # nor does it list itself
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    touch(tmp_path, "b.mp4")
    assert prepare_listing(chosen, Paths(tmp_path))
    assert read_listing(out)["path"].tolist() == ["a.mp4", "b.mp4"]


def test_names_survive(tmp_path):
    odd = ["-a,b.mp4", 'c"d.mp4', "e\nf.mp4", "g\rh.mp4", "i\r\n.mp4", "NA.mp4"]
    touch(tmp_path / "v", *odd)
    prepare_listing(params("v", "data/listing.csv"), Paths(tmp_path))
    assert sorted(read_listing(tmp_path / "data/listing.csv")["path"]) == sorted(odd)


@pytest.mark.parametrize(
    ("layout", "attribute", "expected"),
    [
        ("folder", None, []),
        ("table", None, ["a.csv", "b.Parquet"]),
        ("kinetics", None, ["a.csv", "k600/annotations/train.csv", "lists/c.csv", "lists/test.txt"]),
        ("bdd100k", None, ["bdd100k/info/lists/val.txt", "lists/test.txt"]),
        ("bdd100k", "scene", ["bdd100k/info/lists/val.txt", "bdd100k/labels/100k/train/x.json", "lists/test.txt"]),
    ],
)
def test_every_layout_lists_what_it_reads(tmp_path, layout, attribute, expected):
    touch(tmp_path, "x.mp4", "a.csv", "b.Parquet", "lists/c.csv", "lists/d.parquet", "lists/test.txt", "notes.txt")
    touch(tmp_path, "k600/annotations/train.csv", "k600/a/b/deep.csv", "bdd100k/info/lists/val.txt", "a/b/c/d/val.txt")
    touch(tmp_path, "bdd100k/labels/100k/train/x.json")
    assert list_files(tmp_path, reads(of(layout, attribute)))["path"].tolist() == sorted([*expected, "x.mp4"])


def test_what_the_pipeline_makes_is_no_data(tmp_path):
    touch(tmp_path, "mine/a.mp4", "data/b.mp4", "train.csv", "data/listing.csv", "data/pyramid/missing.csv")
    touch(tmp_path, "reports/media/sample.mp4", "artifacts/level-1/history.csv", "data/samples/level-1/x.mp4")
    chosen = params(".", "data/listing.csv", "kinetics")
    assert list_root(chosen, Paths(tmp_path))["path"].tolist() == ["data/b.mp4", "mine/a.mp4", "train.csv"]


def test_it_counts_what_it_walks_through(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(COLUMNS, raising=False)
    touch(tmp_path, "a.mp4", "b.jpg", "c/d.mp4")
    list_files(tmp_path, no_tables)
    assert capsys.readouterr().err.startswith("list: 3 files")


def test_a_name_that_no_table_can_hold_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"'\\udcff\.mp4' is not UTF-8"):
        list_files(tmp_path, no_tables)


def test_the_listing_of_the_recipe(tmp_path):
    raw = YAML(typ="safe").load(RECIPE)
    assert not prepare_listing(parse_params(raw), Paths(tmp_path))  # make-shapes writes it
    raw["shapes"] = {}
    raw["data"] |= {"root": "videos", "listing": "data/lists/mine.csv"}
    touch(tmp_path / "videos", "a.mp4")
    assert prepare_listing(parse_params(raw), Paths(tmp_path))
    assert (tmp_path / "data/lists/mine.csv").read_text() == "path,size,mtime\na.mp4,5,5\n"


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, monkeypatch, caplog):
    touch(tmp_path / "v", "a.mp4", "lost+found/b.mp4")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_files(tmp_path / "v", no_tables)["path"].tolist() == ["a.mp4"]
    assert "'lost+found/' is left out: Permission denied" in caplog.text

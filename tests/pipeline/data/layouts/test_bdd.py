import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.layouts.bdd import read_labels
from pipeline.data.layouts.datasets import index_videos, reads
from pipeline.data.layouts.index import Index
from pipeline.data.layouts.walk import list_files
from pipeline.errors import UserError
from tests.pipeline.data.layouts.layouts import counts, listing, of, reasons, split_by_path, touch

A, B, C, D = "00000000-89abcdef", "0123abcd-00000000", "0123abcd-00000001", "ffffffff-00000002"


def found_in(root: Path, attribute: Any = None) -> Index:
    data = of("bdd100k", attribute)
    return index_videos(data, list_files(root, reads(data)), root)


def test_drives_by_folder(tmp_path):
    drives = (f"videos/train/{A}.mov", f"x/videos/val/{B}.MOV", f"test/{C}.mp4")
    touch(tmp_path, *drives, "videos/train/holiday.mov", f"videos/train/x{D}.mov", f"{D}.mov")
    found = found_in(tmp_path)
    assert split_by_path(found) == dict(zip(drives, ("train", "val", "test"), strict=True))
    assert found.classes == ()
    assert reasons(found) == {
        "videos/train/holiday.mov": "not named like a drive",
        f"videos/train/x{D}.mov": "not named like a drive",
        f"{D}.mov": "in no split",
    }


def test_archives_unpacked_beside_each_other(tmp_path):
    prefix = "bdd100k_videos_train_0{}/bdd100k/videos/train/{}.mov"
    touch(tmp_path, prefix.format(0, A), prefix.format(1, B), prefix.format(1, A))
    touch(tmp_path, f"bdd100k_videos_val_00/bdd100k/videos/val/{C}.mov", f"bdd100k_videos_test_03/{D}.mov")
    found = found_in(tmp_path)
    assert counts(found.videos, "split") == {"train": 2, "val": 1, "test": 1}
    assert reasons(found) == {prefix.format(1, A): "a second file of the same drive"}


def test_lists_override_folders(tmp_path, caplog):
    touch(tmp_path, f"train/{A}.mov", f"train/{B}.mov", f"all/{C}.mov", f"all/{D}.mov")
    (tmp_path / "info").mkdir()
    (tmp_path / "info/bdd_val.txt").write_text(f"# ours\n\nvideos/train/{B.upper()}.mov\r\n{C}\n11111111-22222222\n")
    (tmp_path / "readme.txt").write_text(A)
    (tmp_path / "info/about_train.txt").write_text("the folder train")
    found = found_in(tmp_path)
    assert split_by_path(found) == {f"all/{C}.mov": "val", f"train/{A}.mov": "train", f"train/{B}.mov": "val"}
    assert found.missing.to_numpy().tolist() == [["val", "", "11111111-22222222"]]
    assert reasons(found) == {f"all/{D}.mov": "in no split"}
    assert "info/about_train.txt is named like the list of a split, but names no drive" in caplog.text


def test_lists_that_contradict_each_other_are_named(tmp_path):
    touch(tmp_path, f"train/{A}.mov")
    for name in ("test", "train"):
        (tmp_path / f"{name}.txt").write_text(A)
    with pytest.raises(UserError, match=rf"train\.txt: {A} is in the list of another split, test, too"):
        found_in(tmp_path)


def image(drive: str, **attributes: Any) -> dict[str, Any]:
    return {"name": f"{drive}.jpg", "attributes": attributes, "labels": [{"box2d": {"x1": 1.5}}]}


def test_classes_from_an_object_a_drive(tmp_path):
    touch(tmp_path, f"train/{A}.mov", f"train/{B}.mov", f"val/{C}.mov", "labels/100k/train/x")
    for drive, weather in ((A, "rainy"), (B, "undefined"), (C.upper(), "clear")):
        content = {"name": drive, "frames": [{"timestamp": 1, "objects": []}], "attributes": {"weather": weather}}
        (tmp_path / f"labels/100k/train/{drive}.json").write_text(json.dumps(content, indent=2))
    found = found_in(tmp_path, "weather")
    assert found.videos["class"].tolist() == ["rainy", "", "clear"]
    assert found.classes == ("clear", "rainy")


@pytest.mark.parametrize("form", ["list", "frames"])
def test_classes_from_many_images(tmp_path, form):
    touch(tmp_path, f"train/{A}.mov", f"train/{B}.mov", f"val/{C}.mov", f"val/{D}.mov")
    images = [
        *(image(A, scene="tunnel"), image(A, scene="highway"), image(A, scene="tunnel")),
        *(image(B, scene="residential"), image(B, scene="city street"), image(B, weather="rainy")),
        *(image(C, scene="undefined"), image(C, scene="undefined"), image(C, scene="highway")),
        *({"name": "x.jpg", "attributes": {"scene": "no drive"}}, {"name": f"{D}.jpg", "attributes": None}),
        *(image(D, scene=None), image(D, scene=3), 7, None, []),
    ]
    content = images if form == "list" else {"config": {"a": [1]}, "frames": images, "groups": None}
    (tmp_path / "det_train.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    found = found_in(tmp_path, "scene")
    # the most frequent; of equally frequent ones the first by name; undefined is no class
    assert found.videos["class"].tolist() == ["tunnel", "city street", "highway", ""]


def test_missing_drives_have_classes(tmp_path):
    touch(tmp_path, f"train/{A}.mov")
    (tmp_path / "val.txt").write_text(B)
    (tmp_path / "labels.json").write_text(json.dumps([image(B, timeofday="night")]))
    assert found_in(tmp_path, "timeofday").missing.to_numpy().tolist() == [["val", "night", B]]


def test_without_labels_it_says_how_to_get_them(tmp_path):
    touch(tmp_path, f"train/{A}.mov")
    with pytest.raises(UserError, match=r"data\.attribute: weather, but none of the 0 JSON files .* `hvg index`"):
        found_in(tmp_path, "weather")
    (tmp_path / "other.json").write_text('{"name": "package", "version": 1}')
    with pytest.raises(UserError, match=r"none of the 1 JSON files"):
        found_in(tmp_path, "weather")
    assert len(found_in(tmp_path).videos) == 1


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"  ", b"[", b"[1", b"[1 2]", b"[1,]", b'{"frames": [1}', b'{"a" 1}', b'{"a": 1,}', b"{1: 2}"),
        *(b"[] []", b"{} x", b"nothing", b'"\xff"', b'{"frames": [{"name": "x"}], "a"}', b"[" * 100_000),
    ],
)
def test_what_is_no_json_is_named(tmp_path, content):
    file = tmp_path / "labels.json"
    file.write_bytes(content)
    with pytest.raises(ValueError):  # the standard library agrees; or RecursionError
        _load(content)
    with pytest.raises(UserError, match=r"labels\.json: no readable JSON"):
        read_labels([file], "weather")


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{}", b" [ ] ", b'{ "frames" : [ ] }', b"3", b'\n{"a": {"frames": [1]}, "frames": null}\n', b"[[1], {}]"],
)
def test_what_is_json_without_labels_is_read(tmp_path, content):
    file = tmp_path / "labels.json"
    file.write_bytes(content)
    _load(content)
    assert read_labels([file], "weather") == {}


def _load(content: bytes) -> None:
    try:
        json.loads(content.decode())
    except RecursionError as error:
        raise ValueError from error


def test_lists_and_labels_are_read_by_the_listing_alone(tmp_path):
    (tmp_path / "val.txt").write_text(A)
    found = index_videos(of("bdd100k"), listing(f"train/{A}.mov"), tmp_path)
    assert split_by_path(found) == {f"train/{A}.mov": "train"}

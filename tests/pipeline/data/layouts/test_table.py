from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.layouts.datasets import index_videos, reads
from pipeline.data.layouts.index import Index
from pipeline.data.layouts.walk import list_files
from pipeline.errors import UserError
from tests.pipeline.data.layouts.layouts import counts, of, reasons, split_by_path, touch


def found_in(root: Path, image_rate: float | None = None) -> Index:
    data = of("table", image_rate=image_rate)
    return index_videos(data, list_files(root, reads(data)), root)


def test_paths_labels_and_splits(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.webm", "b/3.mov", "4.mkv", "stray.mp4", "notes.bin")
    (tmp_path / "videos.csv").write_text(
        "split,path,label,more\n"
        "train,a/1.mp4,dancing (jazz),x\n"
        "Validation,./a//2.webm,NA,x\n"
        "test,b/3.mov,,x\n"
        "train,a/1.mp4,dancing (jazz),again\n"
        "train,4.mkv,007,x\n"
        "val,gone.mp4,massaging person's head,x\n"
        "train,notes.bin,odd,x\n"
    )
    (tmp_path / "other.csv").write_text("name,size\nx,1\n")
    pd.DataFrame({"path": ["stray.mp4"], "size": [1], "mtime": [1]}).to_csv(tmp_path / "listing.csv", index=False)
    found = found_in(tmp_path)
    assert found.videos.to_numpy().tolist() == [
        ["4.mkv", "train", "007"],
        ["a/1.mp4", "train", "dancing (jazz)"],
        ["a/2.webm", "val", "NA"],
        ["b/3.mov", "test", ""],
    ]
    assert found.missing.to_numpy().tolist() == [["val", "massaging person's head", "gone.mp4"]]
    assert reasons(found) == {"stray.mp4": "in no table", "notes.bin": "in a table, but named like no video"}


@pytest.mark.parametrize(
    "head", ["Path,LABEL ,Split\n", "\n\npath,label,split\n", "sep=;\npath;label;split\n", "path\tlabel\tsplit\n"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_as_spreadsheets_write_it(tmp_path, head, encoding):
    touch(tmp_path, "1.mp4", "2.mp4")
    delimiter = next(letter for letter in ";\t," if letter in head)
    rows = "1.mp4,tai chi,Training\n2.mp4,yoga,VAL\n".replace(",", delimiter)
    (tmp_path / "videos.tsv").write_bytes((head + rows).encode(encoding))
    assert found_in(tmp_path).videos.to_numpy().tolist() == [["1.mp4", "train", "tai chi"], ["2.mp4", "val", "yoga"]]


def test_columns_of_classes_under_another_name_are_told(tmp_path, caplog):
    touch(tmp_path, "1.mp4")
    (tmp_path / "train.csv").write_text("path,class\n1.mp4,yoga\n")
    found_in(tmp_path)
    assert "train.csv: no column is named label: its videos have no class; not read: class" in caplog.text


def test_labels_that_look_alike_are_told(tmp_path, caplog):
    touch(tmp_path, *(f"{number}.mp4" for number in range(5)))
    labels = ["caf\u00e9", "cafe\u0301", "tai chi", "tai\u00a0chi", "tai\u200b chi"]
    rows = "".join(f"{number}.mp4,{label}\n" for number, label in enumerate(labels))
    (tmp_path / "train.csv").write_text(f"path,label\n{rows}")
    found_in(tmp_path)
    assert [record.message.count("', '") for record in caplog.records] == [1, 2]


def test_a_path_may_be_that_of_a_folder_of_images(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png", "b/c/01.jpg", "stray/1.webp")
    touch(tmp_path, "d/1.png", "d/preview.gif", "e/1.png", "e/x.mp4")
    (tmp_path / "train.csv").write_text("path,label\na/,yoga\nb/c,tai chi\ngone,yoga\nd,yoga\ne/x.mp4,yoga\n")
    found = found_in(tmp_path, image_rate=12.5)
    assert found.videos.to_numpy().tolist() == [
        *(["a", "train", "yoga"], ["b/c", "train", "tai chi"], ["e/x.mp4", "train", "yoga"])
    ]
    assert reasons(found) == {
        **{"stray": "in no table", "d/preview.gif": "in no table", "gone": "in a table, but named like no video"},
        **dict.fromkeys(("d", "e"), "numbered images, but beside a video file"),
    }


def test_parquet_of_any_column_types(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    table = pd.DataFrame({"path": ["1.mp4", "2.mp4", "3.mp4"], "more": [[1], [2], []]})
    table["label"] = pd.array([3, None, 12], "Int64")
    table["split"] = pd.Categorical(["train", "val", "train"])
    table["thumb"] = [b"\xff\xd8", b"", None]
    table.to_parquet(tmp_path / "videos.parquet")
    pd.DataFrame({"other": [1]}).to_parquet(tmp_path / "more.parquet")
    assert found_in(tmp_path).videos.to_numpy().tolist() == [
        ["1.mp4", "train", "3"],
        ["2.mp4", "val", ""],
        ["3.mp4", "train", "12"],
    ]


def test_without_a_split_the_tables_name_says_it(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    (tmp_path / "my_train.csv").write_text("path,label\n1.mp4,a\n")
    (tmp_path / "my_val.csv").write_text("path,label,split\n2.mp4,a,\n3.mp4,a,test\n")
    assert split_by_path(found_in(tmp_path)) == {"1.mp4": "train", "2.mp4": "val", "3.mp4": "test"}


def test_without_any_split_a_tenth_is_val(tmp_path):
    names = [f"x/{number}.mp4" for number in range(300)]
    touch(tmp_path, *names[:200])
    (tmp_path / "videos.csv").write_text("path\n" + "\n".join(names))
    found = found_in(tmp_path)
    assert 10 < counts(found.videos, "split")["val"] < 35
    assert 3 < counts(found.missing, "split")["val"] < 20
    assert set(found.missing["split"]) == {"train", "val"}
    as_folder = index_videos(of("folder"), list_files(tmp_path, reads(of("folder"))), tmp_path)
    assert split_by_path(found) == split_by_path(as_folder)


def test_without_any_split_folders_may_say_it(tmp_path):
    touch(tmp_path, "train/1.mp4", "val/2.mp4", "loose.mp4")
    (tmp_path / "videos.csv").write_text("path,label\ntrain/1.mp4,a\nval/2.mp4,a\nloose.mp4,a\n")
    found = found_in(tmp_path)
    assert split_by_path(found) == {"train/1.mp4": "train", "val/2.mp4": "val"}
    assert reasons(found) == {"loose.mp4": "beside the folders train, val and test"}


@pytest.mark.parametrize(
    "path", ["/a.mp4", "../a.mp4", "x/../../a.mp4", "", ".", '""', "..\\a.mp4", "C:\\..\\..\\a.mp4"]
)
def test_paths_outside_the_root_are_named_by_row(tmp_path, path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "videos.csv").write_text(f"path,label\na.mp4,x\n{path},y\n")
    with pytest.raises(UserError, match=r"videos\.csv: line 3: .* must be the path of a file in"):
        found_in(tmp_path)


@pytest.mark.parametrize(("first", "second"), [("train,a", "val,a"), ("train,a", "train,b")])
def test_rows_that_contradict_each_other_are_named(tmp_path, first, second):
    touch(tmp_path, "1.mp4")
    (tmp_path / "videos.csv").write_text(f"path,split,label\n1.mp4,{first}\n./1.mp4,{second}\n")
    with pytest.raises(UserError, match=r"line 3: './1\.mp4' has another label or split in an earlier line"):
        found_in(tmp_path)


def test_no_table_and_broken_ones(tmp_path):
    touch(tmp_path, "1.mp4", "deep/videos.csv")
    with pytest.raises(UserError, match="no CSV or Parquet file with a column path"):
        found_in(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"path\n\xff.mp4\n")
    with pytest.raises(UserError, match=r"b\.csv: no readable CSV"):
        found_in(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"a\.parquet: no readable Parquet file"):
        found_in(tmp_path)
    pd.DataFrame({"path": [["1.mp4"]]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no readable Parquet file"):
        found_in(tmp_path)


def test_columns_without_a_name_or_of_the_same_one(tmp_path):
    """Spreadsheets leave commas behind what was deleted; joined tables have columns twice."""
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "train.csv").write_text("path,,note,label,note,,\n1.mp4,0,x,golf,y,,\n2.mp4,1,x,,y\n")
    assert found_in(tmp_path).videos.to_numpy().tolist() == [["1.mp4", "train", "golf"], ["2.mp4", "train", ""]]
    (tmp_path / "train.csv").write_text("path,label,split,label \n1.mp4,golf,train,yoga\n")
    with pytest.raises(UserError, match=r"train\.csv: no readable CSV: 2 columns are named label; mend it or move it"):
        found_in(tmp_path)
    (tmp_path / "train.csv").unlink()
    columns = [pa.array([value]) for value in ("1.mp4", "a", "b", "golf")]
    pq.write_table(pa.Table.from_arrays(columns, ["path", "note", "note", "label"]), tmp_path / "val.parquet")
    assert found_in(tmp_path).videos.to_numpy().tolist() == [["1.mp4", "val", "golf"]]
    pq.write_table(pa.Table.from_arrays(columns, ["path", "label", "note", "label"]), tmp_path / "val.parquet")
    with pytest.raises(UserError, match=r"val\.parquet: no readable Parquet file: 2 columns are named label; mend"):
        found_in(tmp_path)


CUTS = {"spaces": ", ", "semicolons": ";", "tabs": "\t"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark"])
@pytest.mark.parametrize("cut", CUTS)
def test_tables_as_spreadsheets_write_them(tmp_path, cut, encoding):
    touch(tmp_path, "a b/1.mp4", "2.mp4")
    text = "path,label,split\n" + "a b/1.mp4,tai chi ,train\n" + '2.mp4,"Fußball; hart",val\n'
    mark, code = ("\ufeff", "utf-16-le") if " " in encoding else ("", encoding)
    (tmp_path / "videos.csv").write_bytes((mark + text.replace(",", CUTS[cut])).encode(code))
    found = found_in(tmp_path)
    assert found.videos.to_numpy().tolist() == [["2.mp4", "val", "Fußball; hart"], ["a b/1.mp4", "train", "tai chi"]]


def test_separators_of_windows_and_absolute_paths(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "videos.csv").write_text(f"path,label,split\na\\1.mp4,x,train\n{tmp_path}/b/./2.mp4,y,val\n")
    assert split_by_path(found_in(tmp_path)) == {"a/1.mp4": "train", "b/2.mp4": "val"}


def test_labels_that_are_nearly_the_same_are_named(tmp_path, caplog):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    (tmp_path / "train.csv").write_text("path,label\n1.mp4,tai chi\n2.mp4,Tai  Chi\n3.mp4,golf\n")
    assert found_in(tmp_path).classes == ("Tai  Chi", "golf", "tai chi")
    assert "'Tai  Chi', 'tai chi' are classes of their own" in caplog.text and "golf" not in caplog.text


def test_a_line_is_named_also_behind_a_text_of_several(tmp_path):
    touch(tmp_path, "1.mp4")
    (tmp_path / "train.csv").write_text('path,label\n1.mp4,"two\nlines"\n\n../2.mp4,x\n')
    with pytest.raises(UserError, match=r"train\.csv: line 5: '\.\./2\.mp4' must be"):
        found_in(tmp_path)

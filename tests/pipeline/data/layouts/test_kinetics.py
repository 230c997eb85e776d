from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.layouts.datasets import index_videos, reads
from pipeline.data.layouts.index import Index, label_names, read_tables
from pipeline.data.layouts.kinetics import COLUMNS, clip_name
from pipeline.data.layouts.walk import list_files
from pipeline.errors import UserError
from tests.pipeline.data.layouts.layouts import counts, of, reasons, split_by_path, touch

HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"
FOOTBALL = "passing American football (in game)"
MASSAGE = "massaging person's head"
LABELS = Path(__file__).with_name("kinetics_600_labels.txt")  # the published label map


def found_in(root: Path) -> Index:
    data = of("kinetics")
    return index_videos(data, list_files(root, reads(data)), root)


def table(root: Path, name: str, *rows: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(HEAD + "".join(f"{row}\n" for row in rows))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("-a_b_c_000010_000020", "-a_b_c_000010_000020"),
        ("x_10_20", "x_000010_000020"),
        ("abc_123_456_000001_000011", "abc_123_456_000001_000011"),
        *(("_000010_000020", None), ("x_y_z", None), ("x", None), ("x_-1_2", None)),
    ],
)
def test_names_are_read_from_the_right(stem, name):
    assert clip_name(stem) == name


@pytest.mark.parametrize("ends", [(",", ","), ("", ","), (",", ""), (",,", ",")])
def test_commas_at_the_ends_of_rows_shift_no_column(tmp_path, ends):
    file = tmp_path / "train.csv"
    file.write_text("label,youtube_id,time_start,time_end\nyoga,a,0,10{}\n\nNA,b,0{}\n".format(*ends))
    ((_, read),) = read_tables([file], COLUMNS)
    assert list(read.columns) == ["label", "youtube_id", "time_start", "time_end"]
    assert read.to_numpy().tolist() == [["yoga", "a", "0", "10"], ["NA", "b", "0", ""]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("yoga,a,0,10,more\n", "line 2 has 5 fields"),
        ("yoga,a,0,10,,more\n", "line 2 has 6 fields"),
        ("yoga,a,0,10,\n\nyoga,b,0,10,more\n", "line 4 has 5 fields"),
        ("yoga,a,0,10\nyoga,b,0,10,more\n", "line 3 has 5 fields"),
        ('yoga,a,0,10\nyoga,b,0,"10\nyoga,c,0,10\n', "unexpected end of data"),
    ],
)
def test_rows_that_are_no_rows_are_told(tmp_path, rows, told):
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end\n" + rows)
    with pytest.raises(UserError, match=rf"train\.csv: no readable CSV: .*{told}") as error:
        read_tables([tmp_path / "train.csv"], {"youtube_id"})
    assert "\n" not in str(error.value)


def test_a_column_that_is_there_twice_is_named(tmp_path):
    touch(tmp_path, "abc.mp4")
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,,\ngolf,abc,1,11,,\n")
    assert counts(found_in(tmp_path).videos, "class", "split") == {("golf", "train"): 1}
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,label\ngolf,abc,1,11,golf\n")
    with pytest.raises(UserError, match=r"train\.csv: no readable CSV: 2 columns are named label"):
        found_in(tmp_path)


def test_a_clip_of_two_labels_is_told(tmp_path, caplog):
    table(tmp_path, "train.csv", "yoga,a,0,10,train,0", "zumba,a,0,10,training,0", "yoga,b,0,10,validation,0")
    for name in ("a_000000_000010.mp4", "b_000000_000010.mp4"):
        (tmp_path / name).touch()
    found = found_in(tmp_path)
    assert found.videos[["class", "split"]].to_numpy().tolist() == [["yoga", "train"], ["yoga", "val"]]
    assert "1 clips have two labels in the tables, and the first counts: a_000000_000010" in caplog.text


def test_id_and_times_are_the_key(tmp_path):
    table(
        tmp_path,
        "train.csv",
        *("yoga,-a_b,0,10,train,0", "yoga,-a_b,10,20,train,0", "dancing (jazz),NA,3,13,train,0"),
        *("abseiling,gone,0,10,train,0", "yoga,ab_123_456,5,15,train,0"),
    )
    (tmp_path / "kinetics600_validate.csv").write_text("label,youtube_id,time_start,time_end\nyoga,v,1.0,11.0\n")
    (tmp_path / "other.csv").write_text("path,size\nx,1\n")
    touch(
        tmp_path,
        *(
            "train/yoga/-a_b_000010_000020.mp4",
            "train/yoga/-a_b_000000_000010.webm",
            "yoga/ab_123_456_000005_000015.mp4",
        ),
        *("dancing_jazz/NA_000003_000013.avi", "v_000001_000011.mp4", "zz/v_1_11.mkv"),
        *("train/yoga/unknown_000000_000010.mp4", "train/yoga/-a_b_000000_000011.mp4", "ab_123.mp4"),
    )
    found = found_in(tmp_path)
    assert found.videos.to_numpy().tolist() == [
        ["dancing_jazz/NA_000003_000013.avi", "train", "dancing (jazz)"],
        ["train/yoga/-a_b_000000_000010.webm", "train", "yoga"],
        ["train/yoga/-a_b_000010_000020.mp4", "train", "yoga"],
        ["v_000001_000011.mp4", "val", "yoga"],
        ["yoga/ab_123_456_000005_000015.mp4", "train", "yoga"],
    ]
    assert found.missing.to_numpy().tolist() == [["train", "abseiling", "gone_000000_000010"]]
    assert reasons(found) == {
        "ab_123.mp4": "in no table",
        "train/yoga/-a_b_000000_000011.mp4": "in no table",
        "train/yoga/unknown_000000_000010.mp4": "in no table",
        "zz/v_1_11.mkv": "a second file of the same clip",
    }
    assert found.classes == ("abseiling", "dancing (jazz)", "yoga")


CLIP_TRAIN, CLIP_VAL, CLIP_TEST = "-w_5jVB-WPk_000417_000427", "0wR5jVB_WPk_000001_000011", "___________000000_000010"


@pytest.mark.parametrize(
    ("tables", "files"),
    [
        (  # the ActivityNet crawler: labels as they are written, test flat
            ("kinetics-600_train.csv", "kinetics-600_val.csv", "kinetics-600_test.csv"),
            (f"{FOOTBALL}/{CLIP_TRAIN}.mp4", f"{MASSAGE}/{CLIP_VAL}.mp4", f"test/{CLIP_TEST}.mp4"),
        ),
        (  # cvdfoundation: flat
            ("k600/annotations/train.csv", "k600/annotations/val.csv", "k600/annotations/test.csv"),
            (f"k600/train/{CLIP_TRAIN}.mp4", f"k600/val/{CLIP_VAL}.mp4", f"k600/test/{CLIP_TEST}.mp4"),
        ),
        (  # … its archives of one class each, unpacked
            ("annotations/train.csv", "annotations/val.csv", "annotations/test.csv"),
            (f"train/{FOOTBALL}/{CLIP_TRAIN}.mp4", f"val/{MASSAGE}/{CLIP_VAL}.mkv", f"test/part_3/{CLIP_TEST}.webm"),
        ),
        (  # mmaction2: no spaces
            ("annotations/kinetics_train.csv", "annotations/kinetics_val.csv", "annotations/kinetics_test.csv"),
            (
                f"videos_train/passing_American_football_(in_game)/{CLIP_TRAIN}.mp4",
                f"videos_val/massaging_person's_head/{CLIP_VAL}.mp4",
                f"videos_test/{CLIP_TEST}.mp4",
            ),
        ),
        (  # torchvision: neither spaces nor '()
            ("annotations/train.csv", "annotations/val.csv", "annotations/test.csv"),
            (
                f"train/passing_American_football_in_game/{CLIP_TRAIN}.mp4",
                f"val/massaging_persons_head/{CLIP_VAL}.avi",
                f"test/{CLIP_TEST}.mp4",
            ),
        ),
        (  # as they are downloaded: the id alone
            ("train.csv", "validate.csv", "test.csv"),
            ("-w_5jVB-WPk.mp4", "val/0wR5jVB_WPk.mp4", "test/__________.mp4"),
        ),
    ],
    ids=["crawler", "cvdfoundation", "archives", "mmaction2", "torchvision", "bare"],
)
def test_layouts_on_disk(tmp_path, tables, files):
    table(tmp_path, tables[0], f"{FOOTBALL},-w_5jVB-WPk,417,427,train,0")
    table(tmp_path, tables[1], f"{MASSAGE},0wR5jVB_WPk,1,11,validate,0")
    (tmp_path / tables[2]).write_text("youtube_id,time_start,time_end,split\n__________,0,10,test\n")
    touch(tmp_path, *files, *(f"{Path(file).parent}/._{Path(file).name}" for file in files))
    found = found_in(tmp_path)
    rows = zip(files, ("train", "val", "test"), (FOOTBALL, MASSAGE, ""), strict=True)
    assert found.videos.to_numpy().tolist() == sorted(list(row) for row in rows)
    assert found.classes == (MASSAGE, FOOTBALL)
    assert found.missing.empty and found.unlisted.empty


def test_an_id_alone_is_its_only_clip(tmp_path):
    table(tmp_path, "train.csv", "yoga,once,0,10,,", "yoga,twice,0,10,,", "yoga,twice,10,20,,", "yoga,both,0,10,,")
    table(tmp_path, "val.csv", "yoga,both,20,30,,", "yoga,exact,0,10,,")
    touch(tmp_path, "x/once.mp4", "x/twice.mp4", "x/both.mp4", "train/both.mp4", "val/twice.mp4")
    touch(tmp_path, "x/exact.mp4", "x/exact_000000_000010.mp4", "x/nobody.mp4")
    found = found_in(tmp_path)
    assert split_by_path(found) == {
        "train/both.mp4": "train",
        "x/exact_000000_000010.mp4": "val",
        "x/once.mp4": "train",
    }
    assert reasons(found) == {
        "val/twice.mp4": "named by an id that has several clips",
        "x/both.mp4": "named by an id that has several clips",
        "x/exact.mp4": "a second file of the same clip",
        "x/nobody.mp4": "in no table",
        "x/twice.mp4": "named by an id that has several clips",
    }
    assert found.missing["name"].tolist() == ["twice_000000_000010", "twice_000010_000020", "both_000020_000030"]


def test_a_clip_in_two_splits_goes_by_its_folder(tmp_path):
    for split in ("train", "val"):
        rows = ("yoga,a,0,10", "val d'isere,b,0,10", "yoga,c,0,10", "yoga,d,0,10")
        table(tmp_path, f"{split}.csv", *(f"{row},{split}," for row in rows))
    touch(tmp_path, "videos_train/yoga/a_000000_000010.mp4", "val_256/yoga/a_000000_000010.mp4")
    touch(tmp_path, "train/val_disere/b_000000_000010.mp4")  # its class's folder, not a split's
    touch(tmp_path, "yoga/c_000000_000010.mp4", "test/d_000000_000010.mp4")
    found = found_in(tmp_path)
    assert split_by_path(found) == {
        "train/val_disere/b_000000_000010.mp4": "train",
        "val_256/yoga/a_000000_000010.mp4": "val",
        "videos_train/yoga/a_000000_000010.mp4": "train",
    }
    why = "in the tables of several splits, and in the folder of none"
    assert reasons(found) == {"test/d_000000_000010.mp4": why, "yoga/c_000000_000010.mp4": why}
    assert counts(found.missing, "split") == {"train": 2, "val": 3}


def test_the_published_labels_keep_their_places(tmp_path):
    labels = LABELS.read_text().splitlines()
    assert len(set(labels)) == 600
    rows = [f"{label},id{number},0,10,{'train' if number % 3 else 'val'},0" for number, label in enumerate(labels)]
    table(tmp_path, "train.csv", *np.random.default_rng(0).permutation(rows))
    touch(tmp_path, *(f"x/id{number}_000000_000010.mp4" for number in range(0, 600, 2)))  # the others are missing
    found = found_in(tmp_path)
    assert (len(found.videos), len(found.missing)) == (300, 300)
    assert label_names(found, 600) == tuple(labels)


def test_without_tables_it_says_so(tmp_path):
    touch(tmp_path, "a_000000_000010.mp4", "x/y/z/train.csv")
    with pytest.raises(UserError, match="no CSV with the columns"):
        found_in(tmp_path)
    (tmp_path / "train.csv").write_text("youtube_id,time_start,time_end\na,soon,10\n")
    with pytest.raises(UserError, match=r"train\.csv: line 2: time_start must be seconds, not 'soon'"):
        found_in(tmp_path)


@pytest.mark.parametrize("time", ["", "0:10", "inf", "1e300", "-3", "NaN"])
def test_a_time_that_is_none_is_named_with_its_line(tmp_path, time):
    touch(tmp_path, "a_000000_000010.mp4")
    (tmp_path / "train.csv").write_text(f"youtube_id,time_start,time_end\na,0,10\nb,0,{time}\n")
    with pytest.raises(UserError, match=rf"train\.csv: line 3: time_end must be seconds, not '{time}'"):
        found_in(tmp_path)


def test_a_list_as_text_is_a_table_or_named(tmp_path, caplog):
    """Kinetics-600 comes with train.txt and val.txt beside test.csv."""
    table(tmp_path, "k600/annotations/train.txt", "yoga,a,0,10,train,0")
    table(tmp_path, "k600/annotations/test.csv", ",c,0,10,test,0")
    table(tmp_path, "k600/annotations/k600_train_path.txt", "zumba,d,0,10,train,0")
    (tmp_path / "k600" / "annotations" / "val.txt").write_text("yoga b 0 10\n")
    touch(tmp_path, *(f"k600/x/{name}_000000_000010.mp4" for name in "abcd"))
    found = found_in(tmp_path)
    assert [row[1:] for row in found.videos.to_numpy().tolist()] == [["train", "yoga"], ["test", ""]]
    assert set(reasons(found).values()) == {"in no table"}
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith(f"{tmp_path}/k600/annotations/val.txt: not read, as no line at its head names the columns ")


@pytest.mark.parametrize(
    "rows", [b"", b"youtube_id,time_start,time_end\n\xff,0,10\n", b'youtube_id,time_start,time_end\n"x']
)
def test_a_table_that_is_no_csv_is_named(tmp_path, rows):
    (tmp_path / "train.csv").write_bytes(rows)
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=r"train\.csv: no readable CSV"):
        found_in(tmp_path)


ODD_LABELS = (
    *(FOOTBALL, "passing american football (not in game)", MASSAGE, "curling (sport)", "opening bottle (not wine)"),
    *("clean and jerk", "tai chi", "shooting goal (soccer)", "yoga", "zumba"),
)


def odd_id(number: int) -> str:
    """Eleven characters with all that ids may hold; some end as if times followed."""
    return "".join(("-_aZ"[number % 4], f"{number:04d}", ("_12_34", "-_-_-_", "xYz__9")[number % 3]))


def test_a_tree_of_2000_clips_with_every_oddity_at_once(tmp_path):
    train, val, test, files = [], [], [], []
    suffixes = cycle(("mp4", "mkv", "webm", "avi"))
    spellings = (str, lambda label: label.replace(" ", "_"), lambda label: label.replace(" ", "_").translate(DROP))
    for number in range(600):  # 600 ids at two times each: 1,200 clips of train, 120 a class, in three trees
        label = ODD_LABELS[number % 10]
        folder = ("train", "videos_train", "kinetics600_train")[number % 3]
        for start in (0, 10):
            train.append(f"{label},{odd_id(number)},{start},{start + 10},train,0")
            name = f"{odd_id(number)}_{start:06d}_{start + 10:06d}.{next(suffixes)}"
            files.append(f"{folder}/{spellings[number % 3](label)}/{name}")
    for number in range(1000, 1400):  # 400 of val, 40 a class, flat
        val.append(f"{ODD_LABELS[number % 10]},{odd_id(number)},7,17,validate,1")
        files.append(f"k600/val/{odd_id(number)}_000007_000017.{next(suffixes)}")
    for number in range(2000, 2400):  # 400 of test without labels, 100 of them named by the id alone
        test.append(f"{odd_id(number)},3,13,test")
        files.append(f"test/{odd_id(number)}{'' if number < 2100 else '_000003_000013'}.mp4")
    assert len(set(files)) == 2000

    for number in range(3000, 3006):  # of train, in the folder of val
        train.append(f"yoga,{odd_id(number)},0,10,train,0")
        files.append(f"k600/val/{odd_id(number)}_000000_000010.mp4")
    for number in range(3100, 3104):  # of two splits, once in each of their folders
        for rows, split in ((train, "train"), (val, "val")):
            rows.append(f"zumba,{odd_id(number)},0,10,{split},0")
            files.append(f"{split}/zumba/{odd_id(number)}_000000_000010.mp4")
    for number in range(3200, 3205):  # of two splits, in a folder of none
        for rows, split in ((train, "train"), (val, "val")):
            rows.append(f"zumba,{odd_id(number)},0,10,{split},0")
        files.append(f"zumba/{odd_id(number)}_000000_000010.mp4")
    train += [f"tai chi,{odd_id(number)},0,10,train,0" for number in range(4000, 4030)]  # nobody has these
    val += [f"archery,{odd_id(number)},0,10,val,0" for number in range(4100, 4107)]
    test += [f"{odd_id(number)},0,10,test" for number in range(4200, 4205)]
    files += [f"train/yoga/{odd_id(number)}_000000_000010.mp4" for number in range(5000, 5020)]  # in no table
    files += [f"zz/{odd_id(number)}_000000_000010.mp4" for number in range(15)]  # again
    files += [f"zz/{odd_id(number)}.mp4" for number in range(10)]  # an id with two clips
    files += [f"{path.rpartition('/')[0]}/._{path.rpartition('/')[2]}" for path in files[:50]]  # AppleDouble
    files += ["zz/cover.jpg", ".cache/x_000000_000010.mp4"]
    touch(tmp_path, *files)
    table(tmp_path, "train.csv", *train)
    table(tmp_path, "k600/annotations/val.csv", *val)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/kinetics-600_test.csv").write_text(
        "".join(f"{row}\n" for row in ("youtube_id,time_start,time_end,split", *test))
    )
    (tmp_path / "k600/checksums.csv").write_text("file,md5\nx,y\n")

    found = found_in(tmp_path)
    expected = {("train", label): 120 for label in ODD_LABELS} | {("val", label): 40 for label in ODD_LABELS}
    expected |= {("test", ""): 400, ("train", "yoga"): 126, ("train", "zumba"): 124, ("val", "zumba"): 44}
    assert counts(found.videos, "split", "class") == expected
    assert len(found.videos) == 2014
    assert counts(found.missing, "split", "class") == {
        **{("train", "tai chi"): 30, ("val", "archery"): 7, ("test", ""): 5},
        **{("train", "zumba"): 5, ("val", "zumba"): 5},
    }
    assert counts(found.unlisted, "reason") == {
        "in no table": 20,
        "a second file of the same clip": 15,
        "named by an id that has several clips": 10,
        "in the tables of several splits, and in the folder of none": 5,
    }
    assert found.classes == tuple(sorted((*ODD_LABELS, "archery")))


DROP = {ord(letter): None for letter in "'()"}  # as torchvision names folders


def test_the_good_one_of_two_files_counts(tmp_path):
    """A clip of 0 bytes, and those that the official archives replace, wherever their folders sort."""
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n" + "".join(f"a,{name},0,10,train\n" for name in "vwxyz")
    )
    names = "aa/v_000000_000010.mp4", "zz/v_000000_000010.mp4"
    touch(tmp_path, *names, "aa/w_000000_000010.mp4", "replacement/w_000000_000010.mp4")
    touch(tmp_path, "aa/x_000000_000010.mp4", "replacement_for_corrupted_k400/x_000000_000010.mp4")
    touch(tmp_path, "aa/y_000000_000010.mp4", "hip replacement/y_000000_000010.mp4", "aa/z_000000_000010.mp4")
    (tmp_path / "aa/z_000000_000010.mp4").write_bytes(b"")
    (tmp_path / "zz/z.mp4").write_bytes(b"a clip, named by its id")
    (tmp_path / names[1]).write_bytes(b"a clip")
    found = found_in(tmp_path)
    assert found.videos["path"].tolist() == [
        "aa/y_000000_000010.mp4",  # a hip replacement is a class
        *("replacement/w_000000_000010.mp4", "replacement_for_corrupted_k400/x_000000_000010.mp4"),
        *("zz/v_000000_000010.mp4", "zz/z.mp4"),
    ]
    assert set(reasons(found).values()) == {"a second file of the same clip"}

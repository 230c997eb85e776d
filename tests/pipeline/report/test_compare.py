"""Two runs beside each other: what differs, which is better, the last pictures of both."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.errors import UserError
from pipeline.report.compare import differing, measured
from tests.pipeline.report.runs import EVIL, comparison, reproduction, run


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: set[str] = set()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.files |= {value or "" for key, value in attrs if key in ("src", "poster", "href")}


def test_a_page_of_two_runs(tmp_path):
    left = reproduction(tmp_path / "l", "aaaa", 8, 40.0, only="here")
    right = reproduction(tmp_path / "r", "bbbb", 16, 30.0)
    file = comparison(left, right, tmp_path / "out")
    assert file == tmp_path / "out" / "index.html"
    text = file.read_text()
    page = Page(text)
    files = [path for path in (tmp_path / "out" / "media").rglob("*") if path.is_file()]
    beside = {path.relative_to(tmp_path / "out").as_posix() for path in files}
    assert len(beside) == 2 * 3  # of each run the grid and the last iteration's video and picture
    assert {name for name in page.files if not name.startswith("#")} == {*beside, "data:,"}
    assert "iteration-00000100" in text and "iteration-00000050" not in text
    assert "levels.1.training.batch" in text and ">here<" in text and "seed" not in text
    assert EVIL not in text and page.tags.count("script") == 1
    assert "protocol.real_videos" in text and "protocol.samples" not in text
    assert "<b>30<" in text and "<b>40<" not in text and "<b>20<" not in text


def test_hostile_values_that_differ_are_escaped(tmp_path):
    left = reproduction(tmp_path / "l", "aaaa", 8, 40.0, note=EVIL)
    text = comparison(left, reproduction(tmp_path / "r", "bbbb", 8, 30.0), tmp_path / "out").read_text()
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text


def test_of_children_with_one_name_the_last_counts(tmp_path):
    left = reproduction(tmp_path / "l", "aaaa", 8, 40.0)
    again = run("aaaa-2", "train level 1", parent="aaaa", metrics={"loss_generator": 0.125})
    left = replace(left, children=[*left.children, again])
    text = comparison(left, reproduction(tmp_path / "r", "bbbb", 8, 30.0), tmp_path / "out").read_text()
    assert "0.125" in text and "A: none kept" in text


def test_runs_without_children_or_files(tmp_path):
    left = replace(reproduction(tmp_path / "l", "aaaa", 8, 40.0), children=[], files={})
    right = replace(reproduction(tmp_path / "r", "bbbb", 8, 30.0), children=[], files={})
    text = comparison(left, right, tmp_path / "out").read_text()
    assert "None." in text and "<video" not in text


def test_the_page_replaces_an_older_one_and_nothing_else(tmp_path):
    left, right = (reproduction(tmp_path / id, id, 8, 40.0) for id in ("aaaa", "bbbb"))
    first = comparison(left, right, tmp_path / "out").read_text()
    assert comparison(left, right, tmp_path / "out").read_text() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my page")
    for out in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt", tmp_path / "site"):
        with pytest.raises(UserError, match="--out"):
            comparison(left, right, out)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="belong to one reproduction, aaaa"):
        comparison(left, left, tmp_path / "out")


def test_what_differs():
    pairs = differing({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"})
    assert [(pair.name, pair.values) for pair in pairs] == [("a", ("1", "")), ("c", ("3", "4")), ("d", ("", "5"))]


def test_which_is_better():
    left = {"fvd": 500.0, "inception_score": 9.0, "motion_real": 5.0, "fid": 3.0, "loss": 1.0, "windows_fid": 9.0}
    right = {"fvd": 400.0, "inception_score": 7.0, "motion_real": 6.0, "fid": 3.0, "windows_fid": 8.5}
    best = {pair.name: pair.best for pair in measured(left, right)}
    assert best == {"fvd": 1, "inception_score": 0, "motion_real": None, "fid": None, "loss": None, "windows_fid": 1}
    assert [pair.values for pair in measured({"loss": 1.0}, {})] == [("1", "")]

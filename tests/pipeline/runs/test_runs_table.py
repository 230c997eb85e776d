"""What `hvg runs` shows of made-up runs."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import UserError
from pipeline.runs.store import TrackedRun
from pipeline.runs.table import choose, in_full, one, reproduction_of, side_by_side

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(run_id, name="reproduction", parent=None, *, day=0, status="FINISHED", params=None, metrics=None, tags=None):
    level = {"hvg.level": name.split()[-1]} if name[-1].isdigit() else {}
    return TrackedRun(
        id=run_id,
        name=name,
        parent=parent,
        status=status,
        start=START + timedelta(days=day),
        params=params or {},
        metrics=metrics or {},
        tags=level | (tags or {}),
    )


FOUND = [
    run("aa1", params={"seed": "0", "batch": "8"}),
    run("aa2", "train level 1", "aa1", metrics={"loss": 1.5}),
    run("aa3", "train level 2", "aa1", metrics={"loss": 2.5}, status="FAILED"),
    run("aa4", "evaluate", "aa1", metrics={"fvd": 300.0}),
    run("bb1", day=1, params={"seed": "1", "batch": "8"}, tags={"hvg.experiment": "wider"}),
    run("bb2", "train level 1", "bb1", day=1, metrics={"loss": 1.25}),
    run("bb4", "evaluate", "bb1", day=1, metrics={"fvd": 200.0}),
    run("cc1", day=2, status="RUNNING", params={"seed": "2", "batch": "8"}),
]


def ids(chosen):
    return [run.id for run in chosen]


def rows(table):
    return [line.split() for line in table.splitlines()]


def test_reproductions_are_shown_unless_something_within_is_asked_for():
    assert ids(choose(FOUND)) == ["aa1", "bb1", "cc1"]
    assert ids(choose(FOUND, name="train")) == ["aa2", "aa3", "bb2"]
    assert ids(choose(FOUND, level=2)) == ["aa3"]
    assert ids(choose(FOUND, name="train", status="finished")) == ["aa2", "bb2"]
    assert ids(choose(FOUND, status="running")) == ["cc1"]
    assert ids(choose(FOUND, last=2)) == ["bb1", "cc1"]


def test_sorting_knows_what_was_measured_within():
    assert ids(choose(FOUND, sort="fvd")) == ["bb1", "aa1", "cc1"]  # 200, 300, none
    assert ids(choose(FOUND, name="train", sort="loss")) == ["bb2", "aa2", "aa3"]
    with pytest.raises(UserError, match="--sort fdv: none of these runs measured it; they have fvd, loss"):
        choose(FOUND, sort="fdv")


def test_the_table_shows_what_differs_and_every_run_s_own_numbers():
    table = rows(side_by_side(choose(FOUND), FOUND))
    assert ["run", "aa1", "bb1", "cc1"] in table
    assert ["status", "finished", "finished", "running"] in table
    assert ["experiment", "wider"] in table
    assert ["seed", "0", "1", "2"] in table
    assert "batch" not in {line[0] for line in table}
    at = table.index(["train", "level", "1", "finished", "finished"])
    assert table[at + 1 : at + 4] == [["loss", "1.5", "1.25"], ["train", "level", "2", "failed"], ["loss", "2.5"]]


def test_the_table_fits_a_terminal():
    many = [run(f"{i:08}", day=i, params={"lists": str([i] * 50)}) for i in range(20)]
    table = side_by_side(many, many, 80)
    assert max(map(len, table.splitlines())) <= 80
    assert all(one.id in table for one in many)
    assert len(side_by_side(many, many).splitlines()) == 4


def test_a_run_is_found_by_the_beginning_of_its_id():
    assert one(FOUND, "c").id == "cc1"
    assert one(FOUND, "bb4").id == "bb4"
    with pytest.raises(UserError, match="3 runs begin so"):
        one(FOUND, "bb")
    with pytest.raises(UserError, match="no such run"):
        one(FOUND, "dd")
    parent, children = reproduction_of(one(FOUND, "bb4"), FOUND)
    assert (parent.id, ids(children)) == ("bb1", ["bb2", "bb4"])


def test_one_is_shown_in_full():
    text = in_full([(FOUND[0], ["grid.mp4"]), (FOUND[2], [])])
    assert [line.split() for line in text.splitlines() if "20" not in line] == [
        ["reproduction", "aa1"],
        ["status", "finished"],
        ["seed", "0"],
        ["batch", "8"],
        ["grid.mp4", "file"],
        ["train", "level", "2", "aa3"],
        ["status", "failed"],
        ["loss", "2.5"],
    ]


def test_nan_is_sorted_last():
    found = [
        run(name, metrics={"loss": value}) for name, value in (("a", 3.0), ("n", math.nan), ("b", 1.0), ("c", 2.0))
    ]
    assert ids(choose(found, sort="loss")) == ["b", "c", "a", "n"]

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.index import make_index
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.page.histogram import of_ranges, of_values
from pipeline.data.page.summary import CLASSES, duration, render, summarise, visible
from pipeline.data.store.size import StoreSize, finished_size
from pipeline.paths import Paths
from tests.pipeline.data.test_decode import film, params, tree

SIZE = StoreSize(files={1: 1, 2: 3}, bytes={1: 10**6, 2: 2 * 10**9})
EVIL = 'train/\x1b[31m\u202egpj.<script>alert("x")</script>&.mp4'


def decoded(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows (path, split, class, n_frames, status, reason); sources of 30 frames a second, 64x48 pixels."""
    table = pd.DataFrame(rows, columns=["path", "split", "class", "n_frames", "status", "reason"])
    return table.assign(fps=30.0, width=64, height=48, seconds=table["n_frames"] / 15, codec="h264")


TABLE = decoded(
    [
        ("train/a/0.mp4", "train", "a", 40, "kept", ""),
        ("train/a/1.mp4", "train", "a", 8, "kept", ""),
        ("train/b/0.mp4", "train", "b", 0, "failed", "the header says 41.6 s, no frame of h264 decodes"),
        ("train/b/1.mp4", "train", "b", 0, "failed", "the header says 7 s, no frame of h264 decodes"),
        (EVIL, "train", "b", 0, "stopped", "took longer than decode.timeout"),
        ("val/a/0.mp4", "val", "a", 16, "kept", ""),
        ("val/b/0.mp4", "val", "b", 0, "short", "3 frames, fewer than decode.min_frames, 4"),
        ("val/b/1.mp4", "val", "b", 0, "short", "2 frames, fewer than decode.min_frames, 4"),
    ]
)
INDEX = make_index(
    [tuple(row) for row in TABLE[["path", "split", "class"]].to_numpy()],
    missing=[("test", "c", "gone"), ("train", "b", "lost")],
    unlisted=[("loose.mp4", "in no split")],
)


def test_what_is_counted():
    found = summarise(TABLE, INDEX, params(), SIZE)
    assert found.splits == {"train": [2, 0, 3, 1], "val": [1, 2, 0, 0], "test": [0, 0, 0, 1]}
    assert (found.kept, found.videos, found.frames, found.trained) == (3, 8, 64, 2)
    assert [(kind.reason, kind.count, kind.examples[0]) for kind in found.left_out[0].kinds] == [
        ("the header says … s, no frame of h264 decodes", 2, "train/b/0.mp4"),
        ("took longer than decode.timeout", 1, visible(EVIL)),
    ]
    assert [kind.reason for kind in found.left_out[1].kinds] == ["… frames, fewer than decode.min_frames, 4"]
    assert [left.count for left in found.left_out] == [3, 2, 2, 1]
    assert [(c.name, c.splits, c.count) for c in found.classes] == [
        *(("a", [2, 1, 0], 3), ("b", [0, 0, 0], 0), ("c", [0, 0, 0], 0))
    ]
    assert found.untrained == ["b", "c"]
    assert [(w.level, w.needs) for w in found.windows] == [(1, 16), (2, 8)]
    assert [(v.files, v.bytes) for v in found.views] == [(1, 10**6), (3, 2 * 10**9)]


def test_windows_are_those_of_training():
    raw = params()
    level = replace(raw.levels["2"], training=replace(raw.levels["2"].training, window=3))
    found = summarise(TABLE, INDEX, replace(raw, levels={**raw.levels, "2": level}), SIZE).windows
    # Training videos of 40 and 8 frames; windows begin at every frame of view 1, which has every second frame.
    assert (found[0].needs, found[0].videos, found[0].windows) == (16, 1, (40 - 16) // 2 + 1)
    assert (found[1].needs, found[1].videos, found[1].windows) == (6, 2, (40 - 6) // 2 + 1 + 2)


class Page(HTMLParser):
    """Tags that are open, all links and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.ids |= {given["id"] or ""} if "id" in given else set()
        self.links |= {given[key] or "" for key in ("href", "src") if key in given}
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page():
    text = render(summarise(TABLE, INDEX, params(), SIZE))
    page = Page(text)
    assert not page.open
    assert "script" not in page.tags
    assert page.links == {
        *("failed.csv", "short.csv", "missing.csv", "unlisted.csv", "data:,"),
        *("#counts", "#classes", "#videos", "#windows", "#store"),
    }
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\u202egpj.&lt;script&gt;" in text
    assert "2.0 GB" in text
    assert "://" not in text  # nothing is fetched


def test_half_a_million_rows_stay_small():
    rng = np.random.default_rng(0)
    names = [f"<&'\"> class {number:04d}".ljust(200, "é") for number in range(3000)]
    rows = [
        (
            f"train/{name}/{n:03d}{'&' * 200}.mp4",
            "train",
            name,
            int(rng.integers(0, 90)),
            "failed",
            f"{'<' * 250}{n}x{n}y",
        )
        for n, name in enumerate(names)
    ]
    rows.append(("train/x.mp4", "train", names[5], 20, "kept", ""))
    table = decoded(rows)
    index = make_index([tuple(row) for row in table[["path", "split", "class"]].to_numpy()])
    found = summarise(table, index, params(), SIZE)
    assert len(found.classes) == CLASSES
    assert found.more_classes == 3000 - CLASSES
    assert found.classes[0].count == 1
    assert len(render(found).encode()) < 10**6


def test_reasons_never_break_the_page():
    reasons = ["text that begins '…'", "text that begins '7'", "1 2 3", "… … 3", "", "9" * 5000]
    table = decoded(
        [("k.mp4", "val", "", 5, "kept", ""), *((f"{r[:9]}.mp4", "val", "", 0, "failed", r) for r in reasons)]
    )
    index = make_index([tuple(row) for row in table[["path", "split", "class"]].to_numpy()])
    found = summarise(table, index, params(), SIZE)
    assert sum(kind.count for kind in found.left_out[0].kinds) == len(reasons)
    assert {"1 2 3", "… … 3"} <= {kind.reason for kind in found.left_out[0].kinds}
    assert found.classes == []
    assert "classes" not in Page(render(found)).ids


def test_a_decode_writes_it_the_same_every_time(tmp_path, caplog):
    pages = []
    for name in ("one", "two"):
        paths = Paths(tmp_path / name)
        for number, frames in enumerate((40, 21, 33)):
            film(paths.root / "videos" / "train" / "ab"[number % 2] / f"{number}.mp4", frames, number)
        (paths.root / "videos" / "train" / "a" / "broken.mp4").write_bytes(b"no video")
        prepare_listing(params(), paths)
        with caplog.at_level("INFO"):
            decode(params(max_failed=0.5), paths, 1)
        pages.append((paths.pyramid / "summary.html").read_text())
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]
    written = tree(paths.pyramid)
    size = finished_size(paths.pyramid)
    assert sum(size.bytes.values()) == sum(
        len(data) for key, data in written.items() if "/c/" in key and "level-" in key
    )
    assert sum(size.files.values()) == sum("/c/" in key and "level-" in key for key in written)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.split() == ["train", "2", "0", "1", "0"] for line in lines)


def test_names_are_made_visible():
    assert visible("ünï – 日本.mp4") == "ünï – 日本.mp4"
    assert visible("a\nb\x00\u202e") == "a\\nb\\x00\\u202e"
    assert len(visible("\x00" * 1000)) == 100
    assert [duration(s) for s in (9.96, 61, 3599, 7_300_000)] == ["10.0 s", "1 min", "1 h 0 min", "2,027 h 47 min"]


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([7, 7, 7], {"7": 3}),
        ([0.25, 0.5, 0.62], {"0.25 to 0.3": 1, "0.5 to 0.55": 1, "0.6 to 0.65": 1}),
        ([1, 2, 2, 12], {"0 to 1": 1, "2 to 3": 2, "12 to 13": 1}),
        ([10] * 999 + [10**6], {"10": 999, "21 to 1e+06": 1}),
        ([1.0, np.inf, np.nan], {"1": 1}),
        ([], {}),
    ],
)
def test_ranges(values, bars):
    found = of_ranges("x", "u", np.array(values, float)).bars
    assert {bar.name: bar.count for bar in found if bar.count} == bars
    assert len(found) <= 12


def test_values_beyond_the_most_frequent_are_counted():
    found = of_values("x", "u", [float(number) for number in range(20)] + [3.5] * 4)
    assert [bar.name for bar in found.bars] == [
        "0",
        "1",
        "2",
        "3",
        "3.5",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "10 other values",
    ]
    assert [bar.count for bar in found.bars] == [1] * 4 + [4] + [1] * 6 + [10]
    assert found.bars[-1].share == 1
    assert [bar.name for bar in of_values("x", "u", ["vp9", "h264", "vp9"]).bars] == ["h264", "vp9"]

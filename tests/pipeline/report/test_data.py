"""The page over the decoded videos, from the tables beside the pyramid."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.outcome import Outcome, kinds, read_outcome, top_rate, training_windows, visible
from pipeline.data.store.opening import StoreSize, finished_size
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.report import plots
from pipeline.report.data import CLASSES, as_html, class_counts, data_page, duration
from tests.pipeline.data.test_decode import film, params, tree

SIZE = StoreSize(files={1: 1, 2: 3}, bytes={1: 10**6, 2: 2 * 10**9})
EVIL = 'train/\x1b[31m\u202egpj.<script>alert("x")</script>&.mp4'


def outcome(
    folder: Path,
    rows: list[tuple[Any, ...]],
    missing: tuple[tuple[str, str, str], ...] = (),
    unlisted: tuple[tuple[str, str], ...] = (),
) -> Outcome:
    """Of rows (path, split, class, n_frames, status, reason); sources of 30 frames a second, 64x48 pixels."""
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(rows, columns=["path", "split", "class", "n_frames", "status", "reason"])
    kept = table[table["status"] == "kept"].assign(fps=30.0, width=64, height=48, codec="h264")
    kept = kept.assign(notes=kept["reason"], row=range(len(kept)), label=-1)
    kept.assign(seconds=kept["n_frames"] / 15).to_parquet(folder / "videos.parquet")
    for name in ("failed", "short"):
        left = table.loc[table["status"] == name, ["path", "split", "class", "reason"]]
        left.to_csv(folder / f"{name}.csv", index=False)
    pd.DataFrame(missing, columns=["split", "class", "name"]).to_csv(folder / "missing.csv", index=False)
    pd.DataFrame(unlisted, columns=["path", "reason"]).to_csv(folder / "unlisted.csv", index=False)
    (folder / "zarr.json").write_text('{"attributes": {}}')
    return read_outcome(folder)


def some(folder: Path) -> Outcome:
    return outcome(
        folder,
        [
            ("train/a/0.mp4", "train", "a", 40, "kept", ""),
            ("train/a/1.mp4", "train", "a", 8, "kept", ""),
            ("train/b/0.mp4", "train", "b", 0, "failed", "the header says 41.6 s, no frame of h264 decodes"),
            ("train/b/1.mp4", "train", "b", 0, "failed", "the header says 7 s, no frame of h264 decodes"),
            (EVIL, "train", "b", 0, "failed", "took longer than decode.timeout"),
            ("val/a/0.mp4", "val", "a", 16, "kept", "pauses cut out: 1, 30.0 s"),
            ("val/b/0.mp4", "val", "b", 0, "short", "3 frames, fewer than decode.min_frames, 4"),
            ("val/b/1.mp4", "val", "b", 0, "short", "2 frames, fewer than decode.min_frames, 4"),
        ],
        missing=(("test", "c", "gone"), ("train", "b", "lost")),
        unlisted=(("loose.mp4", "in no split"),),
    )


def test_what_is_counted(tmp_path):
    found = some(tmp_path)
    assert found.splits == {"train": [2, 0, 3, 1], "val": [1, 2, 0, 0], "test": [0, 0, 0, 1]}
    assert found.trained.tolist() == [40, 8]
    assert [(kind.reason, kind.count, kind.examples[0]) for kind in kinds(found.left_out["failed"])] == [
        ("the header says … s, no frame of h264 decodes", 2, "train/b/0.mp4"),
        ("took longer than decode.timeout", 1, visible(EVIL)),
    ]
    assert [kind.reason for kind in kinds(found.left_out["short"])] == ["… frames, fewer than decode.min_frames, 4"]
    assert [len(table) for table in found.left_out.values()] == [3, 2, 2, 1]
    assert found.noted.to_numpy().tolist() == [["val/a/0.mp4", "pauses cut out: 1, 30.0 s"]]
    assert class_counts(found) == [("a", [2, 1, 0]), ("b", [0, 0, 0]), ("c", [0, 0, 0])]


def test_the_top_views_rate():
    videos = pd.DataFrame({"fps": [24.0, 30.0, 25.0]})
    assert top_rate(params(), videos) == 12.5  # every second frame
    assert top_rate(params(frame_step=None, fps=8), videos) == 8


def test_windows_are_those_of_training():
    raw, frames = params(), np.array([40, 8])
    level = replace(raw.levels["2"], training=replace(raw.levels["2"].training, window=3))
    chosen = replace(raw, levels={**raw.levels, "2": level})
    # Training videos of 40 and 8 frames; windows begin at every frame of view 1, which has every second frame.
    first, second = (training_windows(chosen, level, frames) for level in (1, 2))
    assert (first.needs, first.videos, first.windows) == (16, 1, (40 - 16) // 2 + 1)
    assert (second.needs, second.videos, second.windows) == (6, 2, (40 - 6) // 2 + 1 + 2)


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


def test_the_page(tmp_path):
    text = as_html(some(tmp_path), SIZE, params(), "../data/pyramid")
    page = Page(text)
    assert not page.open
    assert "script" not in page.tags
    assert page.links == {
        *(
            f"../data/pyramid/{name}"
            for name in ("failed.csv", "short.csv", "missing.csv", "unlisted.csv", "videos.parquet")
        ),
        *("data:,", "#counts", "#classes", "#videos", "#windows", "#store"),
    }
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\u202egpj.&lt;script&gt;" in text
    assert "3 of 8 videos" in text and "2.0 GB" in text
    assert "<strong>2 classes have no video to be trained on:</strong> <bdi>b</bdi>, <bdi>c</bdi>" in text
    assert "://" not in text.replace("http://www.w3.org/1999/xlink", "")  # nothing is fetched


def test_half_a_million_rows_stay_small(tmp_path):
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
    text = as_html(outcome(tmp_path, rows), SIZE, params(), "..")
    assert f"and {3000 - CLASSES:,} more" in text
    assert len(text.encode()) < 10**6


def test_reasons_never_break_the_page(tmp_path):
    reasons = ["text that begins '…'", "text that begins '7'", "1 2 3", "… … 3", "", "9" * 5000]
    rows = [("k.mp4", "val", "", 5, "kept", ""), *((f"{r[:9]}.mp4", "val", "", 0, "failed", r) for r in reasons)]
    found = outcome(tmp_path, rows)
    of_failed = kinds(found.left_out["failed"])
    assert sum(kind.count for kind in of_failed) == len(reasons)
    assert {"1 2 3", "… … 3"} <= {kind.reason for kind in of_failed}
    assert "classes" not in Page(as_html(found, SIZE, params(), "..")).ids


def test_a_decode_is_shown_the_same_every_time(tmp_path, caplog):
    pages = []
    for name in ("one", "two"):
        paths = Paths(tmp_path / name)
        for number, frames in enumerate((40, 21, 33)):
            film(paths.root / "videos" / "train" / "ab"[number % 2] / f"{number}.mp4", frames, number)
        (paths.root / "videos" / "train" / "a" / "broken.mp4").write_bytes(b"no video")
        prepare_listing(params(), paths)
        with caplog.at_level("INFO"):
            decode(params(max_failed=0.5), paths, 1)
        pages.append(data_page(params(), paths).read_text())
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]
    tables = {link for link in Page(pages[0]).links if link.endswith(".csv")}
    assert len(tables) == 4 and all((paths.reports / link).is_file() for link in tables)
    written = tree(paths.pyramid)
    size = finished_size(paths.pyramid)
    assert sum(size.bytes.values()) == sum(
        len(data) for key, data in written.items() if "/c/" in key and "level-" in key
    )
    assert sum(size.files.values()) == sum("/c/" in key and "level-" in key for key in written)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.split() == ["train", "2", "0", "1", "0"] for line in lines)


def test_nothing_decoded_is_said(tmp_path):
    with pytest.raises(UserError, match="no finished store here"):
        data_page(params(), Paths(tmp_path))


def test_names_are_made_visible():
    assert visible("ünï – 日本.mp4") == "ünï – 日本.mp4"
    assert visible("a\nb\x00\u202e") == "a\\nb\\x00\\u202e"
    assert len(visible("\x00" * 1000)) == 100
    assert [duration(s) for s in (9.96, 61, 3599, 7_300_000)] == ["10.0 s", "1 min", "1 h 0 min", "2,027 h 47 min"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([7.0, 7, np.nan], ["unit: 7 to 7, median 7", ">7<"]),
        (["vp9", "h264", "vp9"], ["unit: 1 of h264, 2 of vp9", ">vp9<", ">h264<"]),
        ([*range(990), *[10**6] * 5], ["unit: 0 to 1e+06, median 497"]),
        ([np.nan], ["unit: not known"]),
    ],
)
def test_histograms_show_few_values_or_ranges(values, shown):
    drawn = plots.histogram("title", "unit", pd.Series(values))
    assert all(text in drawn for text in shown)
    assert drawn.count("<svg") == 1 and drawn == plots.histogram("title", "unit", pd.Series(values))

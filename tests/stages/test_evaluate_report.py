"""Evaluate and report on a small finished project: honest names, the right clips, a page that stands on its own."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from fake_project import make_project
from PIL import Image, ImageSequence

from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.metrics import evaluation
from pipeline.metrics.evaluation import choose_clips, grounding, real_split
from pipeline.metrics.measured import RANDOM_PAIRS
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.report.build import build
from pipeline.runs import tracking
from pipeline.runs.store import Away, Store, TrackedRun
from pipeline.system.values import fingerprint
from stages import evaluate, report
from tests.pipeline.training.tiny import ALONE


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Paths:
    """A project after both stages."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("WORLD_SIZE", raising=False)
        evaluate.main([])
        report.main([])
    return Paths(root)


class _Links(HTMLParser):
    """What a page refers to, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: set[str] = set()
        self.fragments: set[str] = set()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.unnamed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        for key in ("src", "poster", "href"):
            value = given.get(key)
            if value and value.startswith("#"):
                self.fragments.add(value[1:])
            elif value and value != "data:,":
                self.files.add(value)
        if tag in ("video", "img") and not (given.get("alt") or given.get("aria-label")):
            self.unnamed.append(str(given))


def test_random_weights_never_bear_famous_names(project):
    content = json.loads((project.reports / "metrics.json").read_text())
    assert set(content["metrics"]) == {
        "random_i3d_frechet_logits",
        "random_i3d_frechet_pooled",
        *RANDOM_PAIRS,
        "probe_accuracy_real",
        "probe_accuracy_generated",
        "motion_real",
        "motion_generated",
        "grounding_psnr_level_2",
    }
    assert all(np.isfinite(value) for value in content["metrics"].values())
    logged = Store(project).runs("evaluate")
    windows = {f"{part}_{name}" for part in ("windows", "cut_windows") for name in content[part]}
    assert len(windows) == 10 and [set(run.metrics) for run in logged] == [set(content["metrics"]) | windows]
    assert not re.search(r'"(fvd|kvd|fid|recall|inception_score|is)"', (project.reports / "metrics.json").read_text())


def test_the_protocol_stands_beside_the_numbers(project):
    protocol = json.loads((project.reports / "protocol.json").read_text())["protocol"]
    assert protocol["real_split"] == "val" and protocol["sigma"] == 1.0
    assert (protocol["real_videos"], protocol["generated_videos"]) == (4, 4)
    assert (protocol["frames"], protocol["size"], protocol["frame_step"]) == (8, 16, 2)
    assert "forth and back" in protocol["played"] and protocol["logits_sha256"] is None
    assert protocol["samples"] == ViewReader(project.samples(2) / "videos", 2).digest


def test_spectra_are_a_row_a_frequency(project):
    table = pd.read_csv(project.reports / "psd.csv")
    assert sorted(set(table["frame"])) == [1, 8] and len(table) == 2 * 9
    assert np.isfinite(table.to_numpy()).all() and table["real_mean"].to_numpy().min() >= 0


def test_the_page_refers_to_nothing_that_is_not_there(project):
    text = (project.reports / "index.html").read_text()
    page = _Links(text)
    assert {"data.html", *(f"media/{path.name}" for path in (project.reports / "media").iterdir())} == page.files
    assert page.fragments <= set(page.ids)
    without_svg = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?://|@import|url\(", without_svg)


def test_every_name_is_escaped(project):
    text = (project.reports / "index.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<img src=x>" not in text
    assert "x/&lt;img src=x&gt;.mp4" in (project.reports / "data.html").read_text()
    assert "<b>tags</b>" not in text and "a &amp; b" in text and "ünïcode" in text
    assert _Links(text).tags.count("script") == 1


def test_the_page_can_be_used_without_seeing_it(project):
    page = _Links((project.reports / "index.html").read_text())
    assert not page.unnamed
    assert page.tags.count("h1") == 1 and "main" in page.tags and "nav" in page.tags
    assert page.tags.count("video") == 4 * 3 + 2  # four samples at two levels beside a real clip, and two grids


def test_levels_of_a_row_last_equally_long(project):
    import av

    seconds = []
    for name in ("sample-1-level-1", "sample-1-level-2", "real-1", "grid-real"):
        with av.open(str(project.reports / "media" / f"{name}.mp4")) as video:
            stream = video.streams.video[0]
            assert stream.duration is not None and stream.time_base is not None
            seconds.append(float(stream.duration * stream.time_base))
    assert seconds == pytest.approx([8 * 2 / 24] * 4, abs=1e-3)


def test_runs_and_parameters_are_on_the_page(project):
    text = (project.reports / "index.html").read_text()
    assert all(run.id in text for run in Store(project).runs("evaluate"))
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in text and str(project.root) not in text
    assert "# a comment with &lt;b&gt;tags&lt;/b&gt;" in text


def test_the_gif_shows_every_level_as_long_as_the_videos(project):
    with Image.open(project.reports / "media" / "samples.gif") as image:
        assert len(list(ImageSequence.Iterator(image))) == 8 and image.info["loop"] == 0
        # four samples of 16 pixels and 3 gaps, two levels and a gap, as often as fits 640 pixels
        assert image.size == (9 * (4 * 16 + 3), 9 * (2 * 16 + 1))


def test_a_page_is_made_where_the_tracker_is_away(project, monkeypatch, caplog):
    def away(*_):
        raise Away("MLflow does not answer")

    monkeypatch.setattr(Store, "runs", away)
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    report.main([])
    assert "the page names no runs: MLflow does not answer" in caplog.text


def test_the_page_names_this_checkouts_reproduction_and_where_it_has_none_anyones_levels(project, monkeypatch):
    def ended(number, root, parent=None, inputs="", params=""):
        tags = {"hvg.root": root, "hvg.inputs": inputs, "hvg.params": params}
        return TrackedRun(
            id=str(number), name="x", parent=parent, status="FINISHED", start=datetime(2026, 1, number, tzinfo=UTC),
            params={}, metrics={}, tags=tags,
        )  # fmt: skip

    monkeypatch.setattr(tracking, "name_of", lambda root: "ours")
    params = load_params(project.params)
    same = fingerprint(params)
    found = [ended(1, "ours", params=same), ended(2, "ours", "1", inputs="a"), ended(3, "theirs", params=same)]
    found += [ended(4, "theirs", "3", inputs="a"), ended(5, "theirs", "3", inputs="b")]
    for level, inputs in ((1, "a"), (2, "b")):
        (project.artifact(level) / "config.json").write_text(json.dumps({"config": {"classes": 4}, "inputs": inputs}))
    ours = report._reproduction(found, params, project)
    assert ours is found[0] and report._reproduction(found[2:], params, project) is None
    assert [run.id for run in report._runs(found, ours, params, project)] == ["1", "2", "5"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.json", lambda content: content[:-9]),
        ("metrics.json", lambda _: b"null"),
        ("protocol.json", lambda content: content.replace(b"real_split", b"real_spli", 1)),
        ("psd.csv", lambda content: content.replace(b"cycles", b"cyclex")),
        ("motion.csv", lambda content: content[: content.rindex(b",")]),
        ("counts.csv", lambda content: content + b"fvd,x,1,1,1\n"),
        ("per_class.csv", lambda content: content.replace(b"generated", b"generates", 1)),
        ("per_class.csv", lambda _: b"\xff"),
    ],
)
def test_a_damaged_result_is_one_line(project, name, damage):
    file = project.reports / name
    content = file.read_bytes()
    file.write_bytes(damage(content))
    try:
        with pytest.raises(UserError, match=rf"{re.escape(name)}: cannot be read .*`dvc repro` makes it again"):
            build(load_params(project.params), project, [])
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("place", ["plots.spectra", "plots.curves", "measurements", "class_table"])
def test_a_bug_in_what_is_drawn_is_no_damaged_file(project, monkeypatch, place):
    def bug(*_, **__):
        raise AttributeError("ours")

    monkeypatch.setattr(f"pipeline.report.build.{place}", bug)
    with pytest.raises(AttributeError, match="ours"):
        build(load_params(project.params), project, [])


def test_classes_are_called_what_they_are_called_and_random_weights_are_named(project, monkeypatch):
    table, content = pd.read_csv(project.reports / "per_class.csv"), (project.reports / "metrics.json").read_text()
    names = ["001", "1e5", "nan"][: len(table)]
    table.iloc[: len(names)].assign(**{"class": names}).to_csv(project.reports / "per_class.csv", index=False)
    (project.reports / "metrics.json").write_text(content.replace("random_i3d_", "other_"))
    assert '"random_i3d_' in content
    try:
        text, random = (
            build(load_params(project.params), project, []).read_text(),
            "evaluation.i3d_k400</code> names no",
        )
        assert random not in text
        (project.reports / "metrics.json").write_text(content)
        assert random in build(load_params(project.params), project, []).read_text()
    finally:
        table.to_csv(project.reports / "per_class.csv", index=False)
        (project.reports / "metrics.json").write_text(content)
    assert all(re.search(rf"<t[hd][^>]*>{name}</t", text) for name in names)


def test_without_classes_rows_are_numbered(tmp_path):
    paths = make_project(tmp_path / "plain", classes=())
    paths.reports.mkdir()
    protocol = {"real_split": "train", "frames": 8, "size": 16, "sigma": 1.0, "real_videos": 4, "generated_videos": 4}
    protocol |= {"frame_step": 2, "precision": "float32", "logits_sha256": "ab" * 32}
    (paths.reports / "metrics.json").write_text(json.dumps({"metrics": {"fvd": 12.5}}))
    (paths.reports / "protocol.json").write_text(json.dumps({"protocol": protocol}))
    table = {"frame": [1, 1], "cycles": [0, 1], "real_mean": [1.0, 2], "real_deviation": [0.0, 0]}
    table |= {"generated_mean": [1.0, 1], "generated_deviation": [0.0, 0]}
    pd.DataFrame(table).to_csv(paths.reports / "psd.csv", index=False)
    text = build(load_params(paths.params), paths, []).read_text()
    assert "Sample 1" in text and "no classes" in text and "no FVD, FID or IS" not in text
    page = _Links(text)
    assert page.fragments <= set(page.ids) and not {"classes", "windows"} & set(page.ids)
    (paths.artifact(2) / "history.csv").unlink()
    with pytest.raises(UserError, match=r"history\.csv: missing"):
        build(load_params(paths.params), paths, [])


def test_real_clips_fall_back_to_train_aloud(project, caplog):
    assert real_split(project.pyramid, "val", 8) == "val"
    assert real_split(project.pyramid, "test", 8) == "train"
    assert "come from train" in caplog.text
    with pytest.raises(UserError, match=r"evaluation\.split"):
        real_split(project.pyramid, "val", 11)


def test_clips_are_whole_aligned_and_of_different_videos(project):
    params = load_params(project.params)
    reader = ViewReader(project.pyramid, 2, "val")  # 10 frames a video: a clip of 8 starts at 0 or at 2
    clips = choose_clips(params, reader, "real", 4, 4)
    assert len(clips) == 4 == len({video for video, _ in clips})
    assert {start for _, start in clips} <= {0, 2}
    assert clips == choose_clips(params, reader, "real", 4, 4) != choose_clips(params, reader, "generated", 4, 4)
    assert choose_clips(params, reader, "real", 2, 4) == clips[:2]


def test_grounding_pairs_rows(project):
    assert grounding(load_params(project.params), project, 2, ALONE) == 100  # the fake level 1 is the view of level 2


def test_few_videos_make_fewer_sets(caplog):
    assert evaluation._parts("psd_sets", 3, 8) == 3 and not caplog.text
    assert evaluation._parts("psd_sets", 3, 2) == 2 and "psd_sets" in caplog.text

"""`hvg sample`: a hierarchy of untrained but calibrated networks, small enough to generate in a moment."""

import json
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from models.discriminator import Discriminators
from models.generator import Generator
from models.unroll import recalibrate
from pipeline.commands.metrics import metrics as metrics_command
from pipeline.commands.metrics import sample as sample_command
from pipeline.commands.metrics import table4 as table_4_command
from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.generation import artifact, samples
from pipeline.generation.statistics import write_statistics
from pipeline.metrics.clip_sets import open_set
from pipeline.params import load_params
from tests.pipeline.training.tiny import ALONE
from tests.stages.fake_project import CLASSES, make_project

NOT_TO_KEEP_IN = ("data/shapes/out", ".hvg/out", ".dvc/tmp/out", ".git/out", "link/out")
SEEDS = {"first": 3, "same": 3, "other": 4}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("project"), videos=6)
    params = load_params(paths.params)
    for level in (1, 2):
        torch.manual_seed(level)
        generator = Generator(params.level(level, len(CLASSES)))
        config = generator.config
        labels, z = torch.arange(4) % len(CLASSES), torch.randn(4, config.generator.noise)
        below = None if level == 1 else torch.rand(4, 4, 3, 8, 8) * 2 - 1
        artifact.write(paths.artifact(level), generator, Discriminators(config), [], {})
        digest = artifact.digest(paths.artifact(level))
        for store, sigma in (("videos", params.sigma.metrics), ("figures", params.sigma.figures)):
            statistics = recalibrate(generator, [(z * sigma, labels, below)])
            of = {"sigma": sigma, "frames": config.view.frames, "digest": digest}
            write_statistics(paths.samples(level) / store, statistics, **of)
    return paths


def draw(paths, out, **given):
    chosen = {"videos": 6, "classes": (), "split": "figures", "seed": 0, "workers": ALONE, **given}
    samples.sample(load_params(paths.params), paths, out, **chosen)
    return ViewReader(out / "level-2", 2, chosen["split"])


def frames(reader):
    return np.stack([reader.read(video, 0, 8) for video in range(len(reader))])


def test_every_class_asked_for_gets_as_many(project, tmp_path):
    top = draw(project, tmp_path / "out", classes=["plain", CLASSES[0]])
    assert sorted(top.videos["class"]) == [CLASSES[0]] * 3 + ["plain"] * 3
    assert top.videos["sigma"].unique().tolist() == [load_params(project.params).sigma.figures]
    assert frames(top).shape == (6, 8, 16, 16, 3)
    below = ViewReader(tmp_path / "out" / "level-1", 1, "figures")
    assert below.labels.tolist() == top.labels.tolist()
    files = sorted(file.name for file in (tmp_path / "out" / "videos").iterdir())
    assert sorted(file.partition("-")[2] for file in files) == ["plain.mp4"] * 3 + ["script-alert-1-script.mp4"] * 3
    assert [file.partition("-")[0] for file in files] == list("012345")


def test_files_show_what_the_store_holds_at_the_datas_speed(project, tmp_path):
    top = draw(project, tmp_path / "out", videos=1)
    (file,) = (tmp_path / "out" / "videos").iterdir()
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.frames) == (256, 8)
        assert stream.average_rate == 12  # half of 24
    (clip,) = open_set(tmp_path / "out" / "videos", split=None, frame_step=1).clips(8, 16)
    assert np.corrcoef(clip.flatten(), frames(top)[0].flatten())[0, 1] > 0.9  # noise: 4:2:0 and scaling take their part


def test_the_seed_and_nothing_else_changes_the_videos(project, tmp_path):
    first, same, other = (frames(draw(project, tmp_path / name, seed=seed)) for name, seed in SEEDS.items())
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_an_interrupted_call_goes_on(project, tmp_path, monkeypatch):
    whole = frames(draw(project, tmp_path / "whole", seed=5))
    works = project.state / "work"
    with monkeypatch.context() as patch:
        patch.setattr(samples, "write_mp4", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            draw(project, tmp_path / "out", seed=5)
    assert not (tmp_path / "out").exists() and len(list(works.glob("sample-*"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.generation.generate.unroll", None)  # everything is there already
        assert np.array_equal(frames(draw(project, tmp_path / "out", seed=5)), whole)
    assert not list(works.glob("sample-*"))


def test_what_cannot_be_drawn_is_said_in_a_line(project, tmp_path):
    with pytest.raises(UserError, match=r"--class: no class 'plane' in the data; there is 'plain'"):
        draw(project, tmp_path / "out", classes=["plane"])
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    (project.root / "link").symlink_to("data/shapes")
    for out, message in (
        (tmp_path / "there", "is there already"),
        (tmp_path / "link", "is there already"),
        (tmp_path / "file" / "out", "cannot be written there"),
        (tmp_path / ("x" * 256) / "out", "cannot be written there: File name too long"),
        (Path("/proc/out"), "cannot be written there"),
        (project.samples(3), "is in a folder that the pipeline or git makes"),
        *((project.root / place, "is in a folder that the pipeline or git makes") for place in NOT_TO_KEEP_IN),
    ):
        with pytest.raises(UserError, match=message):
            draw(project, out)
    without = make_project(tmp_path / "without", classes=())
    with pytest.raises(UserError, match="train the level"):
        draw(without, tmp_path / "out")


def test_what_came_to_its_place_meanwhile_is_kept(project, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(samples, "_write_videos", lambda _reader, folder, _fps: (folder.mkdir(), out.mkdir()))
        with pytest.raises(UserError, match="is there already"):
            draw(project, out, seed=6)
    assert list(out.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.generation.generate.unroll", None)  # everything is there already
        draw(project, tmp_path / "another", seed=6)


def test_the_command_draws_a_class_that_metrics_measures(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.root)
    drawn = CliRunner().invoke(
        sample_command, [str(tmp_path / "out"), "--class", "plain", "-n", "3", "--for-metrics"], catch_exceptions=False
    )
    assert drawn.exit_code == 0 and "3 videos" in drawn.output
    monkeypatch.setattr("pipeline.metrics.evaluation.random_i3d", tiny)
    sides = ["data/pyramid", str(tmp_path / "out" / "level-2")]
    measured = CliRunner().invoke(metrics_command, [*sides, "--class", "plain", "--json"], catch_exceptions=False)
    protocol = json.loads(measured.stdout)["protocol"]
    assert protocol["real_split"].endswith("class 'plain'") and protocol["generated_videos"] == 3
    real = ViewReader(project.pyramid, 2, "val")
    assert protocol["real_videos"] == (real.videos["class"] == "plain").sum() < len(real)
    with pytest.raises(UserError, match="has 1 videos of 'a & b', not two"):
        CliRunner().invoke(metrics_command, [*sides, "--class", "a & b"], catch_exceptions=False)


def test_table_4_is_one_command(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.root)
    monkeypatch.setattr("pipeline.metrics.evaluation.random_i3d", tiny)
    out = tmp_path / "out"

    def table_4(*given: str) -> str:
        return CliRunner().invoke(table_4_command, [str(out), *given], catch_exceptions=False).stdout

    with pytest.raises(UserError, match="no class 'bungee jumping' in the data"):
        table_4()
    shown = table_4("--class", "plain", "--class", "a & b", "-n", "2")
    assert "plain" in shown and "random_i3d_frechet_pooled" in shown
    table = pd.read_csv(out / "table-4.csv")
    assert table["class"].tolist() == ["a & b", "plain"] and table["generated"].tolist() == [2, 2]
    real = ViewReader(project.pyramid, 2).videos["class"]
    assert table["real"].tolist() == [(real == name).sum() for name in table["class"]]
    assert json.loads((out / "protocol.json").read_text())["generated_videos"] == 4
    monkeypatch.setattr(samples, "sample", None)  # it is there
    assert table_4() == shown
    with pytest.raises(UserError, match="--class"):
        table_4("--class", "plain")


def tiny(seed, device):
    from tests.pipeline.metrics.tiny import tiny_network

    return tiny_network(seed)

"""The stages generate and sample on untrained levels: which stores they make, of what, and what is made again."""

import shutil

import pytest
import torch
from ruamel.yaml import YAML

from models.discriminator import Discriminators
from models.generator import Generator
from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.generation import artifact
from pipeline.generation import generate as generation
from pipeline.params import load_params
from stages import generate, sample
from tests.stages.fake_project import CLASSES, make_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two levels of random weights; no videos of theirs."""
    paths = make_project(tmp_path)
    shutil.rmtree(tmp_path / "data" / "samples")
    shutil.rmtree(tmp_path / "data" / "conditions")
    raw = YAML(typ="safe").load(paths.params)
    raw["samples"] = {"videos": 5, "figures": 3, "windows": 4}
    raw["conditions"]["1"] |= {"train": 6, "measure": 2, "codec": "blosc"}
    for level in raw["levels"].values():
        level["generation"] |= {"recalibration": 2, "batch": 4}
        level["training"] |= {"batch": 4}
    YAML().dump(raw, paths.params)
    params = load_params(paths.params)
    for level in (1, 2):
        torch.manual_seed(level)
        config = params.level(level, len(CLASSES))
        artifact.write(paths.artifact(level), Generator(config), Discriminators(config), [], {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return paths


def stores(paths):
    """By name: the number of videos and of frames, the digest, and which file it is."""
    found = {}
    for table in sorted(paths.root.glob("data/*/level-*/**/videos.parquet")):
        level = int(next(part for part in table.parts if part.startswith("level-")).removeprefix("level-"))
        reader = ViewReader(table.parent, level)
        name = table.parent.relative_to(paths.root / "data").as_posix()
        found[name] = (len(reader), int(reader.n_frames.max()), reader.digest, table.stat().st_ino)
    return found


def change(paths, edit):
    raw = YAML(typ="safe").load(paths.params)
    edit(raw)
    YAML().dump(raw, paths.params)


def test_every_store_is_made_once_and_again_only_where_its_own_parameters_change(project):
    generate.main(["--level", "1"])
    for level in ("1", "2"):
        sample.main(["--level", level])
    first = stores(project)
    assert {name: facts[:2] for name, facts in first.items()} == {
        "conditions/level-1": (8, 4),
        "samples/level-1/videos": (5, 4),
        "samples/level-1/figures": (3, 4),
        "samples/level-2/videos": (5, 8),
        "samples/level-2/figures": (3, 8),
        "samples/level-2/windows": (4, 4),
    }
    assert len({digest for _, _, digest, _ in first.values()}) == 6
    change(project, lambda raw: raw["samples"].update(figures=2))
    for level in ("1", "2"):
        shutil.rmtree(project.samples(int(level)))  # as DVC does
        sample.main(["--level", level])
    again = stores(project)
    assert [again[f"samples/level-{level}/figures"][0] for level in (1, 2)] == [2, 2]
    kept = [name for name in first if not name.endswith("figures")]
    assert {name: again[name] for name in kept} == {name: first[name] for name in kept}  # the very same files


def test_windows_of_other_parameters_do_not_stay(project):
    generate.main(["--level", "1"])
    for level in ("1", "2"):
        sample.main(["--level", level])
    change(project, lambda raw: raw["levels"]["2"]["training"].update(window=None))
    sample.main(["--level", "2"])
    assert sorted(folder.name for folder in project.samples(2).iterdir()) == ["figures", "videos"]


def test_what_is_missing_below_is_said_by_its_place(project):
    with pytest.raises(UserError, match=r"the top level makes no conditions; its samples are of `hvg run sample`"):
        generate.main(["--level", "2"])
    with pytest.raises(UserError, match=r"data/samples/level-1/videos"):
        sample.main(["--level", "2"])
    sample.main(["--level", "1"])
    (project.samples(1) / "videos" / "statistics.safetensors").unlink()
    with pytest.raises(UserError, match=r"level-1/videos/statistics\.safetensors: cannot be read .*`dvc repro` makes"):
        sample.main(["--level", "2"])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_was_stopped_goes_on_with_its_statistics_unless_they_are_damaged(project, monkeypatch, damaged):
    def stopped(*_):
        raise KeyboardInterrupt

    sample.main(["--level", "1"])
    whole = stores(project)["samples/level-1/videos"][2]
    shutil.rmtree(project.samples(1))
    shutil.rmtree(project.state / "made")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.generation.generate.generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            sample.main(["--level", "1"])
    (kept,) = project.state.glob("work/*/samples/statistics.safetensors")
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ damaged]))
    done, calibrate = [], generation.calibrate
    monkeypatch.setattr(generation, "calibrate", lambda *given: done.append(given) or calibrate(*given))
    sample.main(["--level", "1"])
    assert stores(project)["samples/level-1/videos"][2] == whole
    assert len(done) == 1 + damaged  # of the figures, and of the videos

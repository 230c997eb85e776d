from collections import namedtuple

import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.store.size import finished_size
from pipeline.paths import Paths
from pipeline.project import doctor
from tests.pipeline.data.test_decode import film, params

GB = 10**9
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path):
    for number in range(3):
        film(tmp_path / "videos" / "train" / f"{number}.mp4", 240, number)
    prepare_listing(params(), Paths(tmp_path))
    return Paths(tmp_path)


@pytest.fixture
def needed(project):
    """Bytes of the pyramid."""
    decode(params(), project, 1)
    size = sum(finished_size(project.pyramid).bytes.values())
    project.pyramid.rename(project.root / "elsewhere")
    return size


def free(monkeypatch, of):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(0, 0, of(folder)))


def cache(project, text):
    (project.root / ".dvc").mkdir(exist_ok=True)
    (project.root / ".dvc" / "config").write_text(f"[cache]\n{text}\n")


@pytest.mark.parametrize(("links", "times"), [("reflink,hardlink,symlink,copy", 1), ("reflink,copy", 2), ("copy", 2)])
def test_the_pyramid_must_fit(project, needed, monkeypatch, links, times):
    cache(project, f"    type = {links}")
    free(monkeypatch, lambda _: times * needed + 5 * GB)
    assert [(check.name, check.ok) for check in doctor._disks(params(), project)] == [("disk", True)]
    free(monkeypatch, lambda _: times * needed + 5 * GB - 1)
    (check,) = doctor._disks(params(), project)
    assert not check.ok and not check.necessary
    free(monkeypatch, lambda _: times * needed - 1)
    (check,) = doctor._disks(params(), project)
    assert not check.ok and check.necessary
    assert all(key in check.found for key in ("decode.codec=jpeg", "decode.max_frames", "decode.store", "clear some"))


def test_a_cache_elsewhere_takes_it_as_well(project, needed, tmp_path, monkeypatch):
    cache(project, f"    dir = {tmp_path / 'far' / 'cache'}\n    type = symlink")
    (tmp_path / "far").mkdir()
    monkeypatch.setattr(doctor, "_device", lambda folder: int("far" in folder.parts))
    free(monkeypatch, lambda folder: needed - 1 if "far" in folder.parts else 6 * GB)
    assert [(check.name, check.ok) for check in doctor._disks(params(), project)] == [
        ("disk", True),
        ("disk of cache", False),
    ]


def test_what_is_decoded_or_goes_elsewhere_needs_nothing(project, monkeypatch):
    free(monkeypatch, lambda _: 6 * GB)
    monkeypatch.setattr(doctor, "FREE_GB", 5.9999)  # less is left than three videos take
    assert not doctor._disks(params(), project)[0].ok
    assert doctor._disks(params(store="s3://bucket/x"), project)[0].ok
    decode(params(), project, 1)
    assert doctor._disks(params(), project)[0].ok


def test_passwords_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://me:hush@127.0.0.1:9/api?key=hush")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush@mlflow.invalid/path")
    shown = [check.found for check in doctor.examine(Paths(tmp_path))]
    assert any("http://127.0.0.1:9/api" in found for found in shown)
    assert any("https://mlflow.invalid/path" in found for found in shown)
    assert not any("hush" in found for found in shown)

from collections import namedtuple

import pytest

from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.store.opening import finished_size
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
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(0, 0, of))


def test_the_pyramid_must_fit(project, needed, monkeypatch):
    free(monkeypatch, needed + 5 * GB)
    assert doctor._disk(params(), project).ok
    free(monkeypatch, needed + 5 * GB - 1)
    check = doctor._disk(params(), project)
    assert not check.ok and not check.necessary
    free(monkeypatch, needed - 1)
    check = doctor._disk(params(), project)
    assert not check.ok and check.necessary
    assert all(key in check.found for key in ("decode.codec=jpeg", "decode.max_frames", "decode.store", "clear some"))


def test_what_is_decoded_or_goes_elsewhere_needs_nothing(project, monkeypatch):
    free(monkeypatch, 6 * GB)
    monkeypatch.setattr(doctor, "FREE_GB", 5.9999)  # less is left than three videos take
    assert not doctor._disk(params(), project).ok
    assert doctor._disk(params(store="s3://bucket/x"), project).ok
    decode(params(), project, 1)
    assert doctor._disk(params(), project).ok

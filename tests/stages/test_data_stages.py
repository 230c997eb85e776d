import shutil
from pathlib import Path

import pytest
import zarr

from pipeline.errors import UserError
from pipeline.params import load_params
from stages import decode, make_shapes

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    text = (PROJECT / "recipes" / "shapes.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("train: 640", "train: 8").replace("val: 128", "val: 8"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_unknown_set_is_named(project):
    with pytest.raises(UserError, match="shapes: no set 'more', only shapes"):
        make_shapes.main(["--key", "more"])


def test_decode_without_a_listing_says_how_to_get_one(project):
    with pytest.raises(UserError, match="`hvg index` writes it"):
        decode.main([])


def test_shapes_to_pyramid(project):
    make_shapes.main(["--key", "shapes"])
    decode.main(["--workers", "1"])
    shutil.rmtree(project / "data" / "shapes")
    pyramid = zarr.open_group(project / "data" / "pyramid", mode="r")
    assert len(pyramid.attrs["classes"]) == 8  # pyright: ignore[reportArgumentType]
    params = load_params()
    for level in (1, 2):
        size = params.view(level).size
        assert pyramid[f"level-{level}"].shape == (16, 12 * level, size, size, 3)  # pyright: ignore

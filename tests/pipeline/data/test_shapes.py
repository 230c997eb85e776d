import hashlib
import os
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.layouts.datasets import index_videos
from pipeline.data.layouts.listing import read_listing
from pipeline.data.shapes import CLASSES, KINDS, SETS, render
from pipeline.data.shapes_files import check_replaceable, make_shapes
from pipeline.errors import UserError
from pipeline.params import DataParams, ShapesParams
from pipeline.paths import Paths
from tests.pipeline.data.video.test_video import decode

SET = ShapesParams(classes=8, train=11, val=8, size=32, frames=12, fps=8)
KINETICS = DataParams(
    layout="kinetics", root="", listing="", classes=None, mirror=False, image_rate=None, attribute=None
)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_class_is_seen_in_every_frame_and_moves(kind):
    video = render(kind, 48, 64, np.random.default_rng(3)).astype(int)
    assert video.shape == (48, 64, 64, 3)
    background = np.median(video.reshape(-1, 3), axis=0)
    shown = np.abs(video - background).max(-1) > 80
    assert (shown.mean((1, 2)) > 0.03).all()
    for start in range(0, 48 - 28, 4):  # the eight frames of a window of the lowest view
        moments = [shown[start + 4 * step] for step in range(8)]
        assert all((a ^ b).mean() > 0.01 for a, b in pairwise(moments))


def test_videos_of_a_class_differ():
    one, other = (render(CLASSES[0], 8, 16, np.random.default_rng(seed)) for seed in (0, 1))
    assert (one != other).mean() > 0.5
    assert np.array_equal(one, render(CLASSES[0], 8, 16, np.random.default_rng(0)))


def test_the_eight_classes_look_as_they_always_did():
    """Mean colours of three frames of 8x8, as rendered before there were others."""
    means = {
        "bar swinging": (91.16, 55.75, 42.81),
        "circle bouncing": (91.05, 44.48, 45.82),
        "cross spinning": (100.12, 82.04, 53.73),
        "diamond zigzag": (86.39, 70.43, 87.58),
        "ring growing": (112.89, 41.58, 106.81),
        "square sliding": (58.92, 54.79, 74.98),
        "star orbiting": (38.96, 46.01, 55.69),
        "triangle falling": (63.69, 68.82, 45.8),
    }
    assert list(means) == [kind.name for kind in CLASSES]
    for kind in CLASSES:
        found = render(kind, 3, 8, np.random.default_rng(7)).mean((0, 1, 2))
        assert found == pytest.approx(np.array(means[kind.name]), abs=0.05)


def test_sixty_four_classes_are_every_colour_form_and_motion():
    colours, forms = ("blue", "green", "red", "yellow"), ("circle", "cross", "ring", "triangle")
    names = [" ".join(words) for words in product(colours, forms, ("bouncing", "falling", "orbiting", "sliding"))]
    assert [kind.name for kind in SETS[64]] == names == sorted(names)
    for own in ("red circle bouncing", "green triangle falling"):  # which are among the eight, too
        one, other = (render(KINDS[name], 8, 16, np.random.default_rng(0)) for name in (own, own.partition(" ")[2]))
        assert np.array_equal(one, other)
    mixed = KINDS["blue cross orbiting"]
    assert (mixed.hue, mixed.distance, mixed.path) == (
        KINDS["square sliding"].hue,
        KINDS["cross spinning"].distance,
        KINDS["star orbiting"].path,
    )


def contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_set_has_the_layout_of_kinetics(tmp_path):
    out = make_shapes(SET, "shapes", 0, Paths(tmp_path), workers=2)
    assert out == tmp_path / "data" / "shapes"
    listing = read_listing(out / "listing.csv")
    found = index_videos(KINETICS, listing, out)
    assert found.videos["split"].value_counts().to_dict() == {"train": 11, "val": 8}
    assert found.classes == tuple(kind.name for kind in CLASSES)
    assert found.missing.empty
    assert found.unlisted.empty
    assert pd.read_csv(out / "val.csv")["label"].tolist() == list(found.classes)
    for path, size, mtime in listing.itertuples(index=False):
        assert ((out / path).stat().st_size, (out / path).stat().st_mtime_ns) == (size, mtime)
    path = out / found.videos.loc[0, "path"]  # pyright: ignore[reportOperatorIssue]
    frames, facts = decode(path, size=32)
    assert frames.shape == (12, 32, 32, 3)
    assert (facts.fps, facts.codec) == (8, "h264")

    again = make_shapes(SET, "shapes", 0, Paths(tmp_path / "b"), workers=1)
    assert contents(again) == contents(out)
    other = make_shapes(SET, "more", 0, Paths(tmp_path / "b"), workers=2)
    assert not set(contents(other)) & {name for name in contents(out) if name.endswith(".mp4")}


@pytest.mark.parametrize("name", ["", "a.mp4", "train/a.mp4", "train/star orbiting/a.mp4", "notes.csv", "videos/link"])
def test_nothing_of_others_is_replaced(tmp_path, name):
    file = tmp_path / "data" / "mine" / name
    file.parent.mkdir(parents=True)
    file.symlink_to("/") if name == "videos/link" else file.write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"shapes\.mine: make-shapes would remove {file}, which is none of its own"):
        make_shapes(SET, "mine", 0, Paths(tmp_path), workers=1)
    assert contents(tmp_path) == before and os.path.lexists(file)


def test_a_set_of_other_parameters_is_replaced(tmp_path):
    mixed = make_shapes(replace(SET, classes=64, train=3), "shapes", 0, Paths(tmp_path), workers=1)
    labels = pd.read_csv(mixed / "train.csv")["label"].tolist()
    assert labels == ["blue circle bouncing", "blue circle falling", "blue circle orbiting"]
    (tmp_path / "data" / "shapes" / "val.csv").unlink()  # also one that is damaged
    check_replaceable("shapes", Paths(tmp_path))
    out = make_shapes(replace(SET, train=8), "shapes", 1, Paths(tmp_path), workers=1)
    assert len(list(out.rglob("*.mp4"))) == 16

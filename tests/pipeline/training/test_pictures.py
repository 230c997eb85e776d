from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.media.grid import fitting
from pipeline.training.pictures import WIDTH_PIXELS, make_pictures
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, networks, same, train


@pytest.mark.parametrize("level", [1, 2])
def test_a_run_with_pictures_ends_with_the_same_bytes(level, tmp_path):
    plain, shown = networks(level), networks(level)
    without = train(plain, batches(level), TRAINING, ALONE, tmp_path / "plain")
    files = []
    params = replace(TRAINING, samples_every=4)
    trained = train(shown, batches(level), params, ALONE, tmp_path / "shown", on_picture=files.append)
    assert same(plain, shown)
    assert without.history == trained.history
    names = [f"iteration-0000000{step}.{kind}" for step in (4, 6) for kind in ("mp4", "png")]
    assert [file.name for file in files] == names
    assert sorted(file.name for file in (tmp_path / "shown" / "pictures").iterdir()) == sorted(names)


def test_pictures_are_of_the_same_clips_each_time(tmp_path):
    generator, names = networks(2).generator, (tmp_path / "a", tmp_path / "b")
    made = [make_pictures(generator, batches(2), 4, ALONE, name)[1].read_bytes() for name in names]
    assert made[0] == made[1]
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    sheet = np.array([4 * 17 - 1, 4 * 17 - 1])  # 4 clips by 4 frames of 16 pixels, with gaps
    assert picture.shape[:2] == tuple(sheet * fitting(int(sheet[0]), WIDTH_PIXELS))
    assert picture.std() > 0

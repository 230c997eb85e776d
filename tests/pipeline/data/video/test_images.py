"""Folders of numbered images: in order, at the rate that is asked for, whole or named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.video.errors import VideoError
from tests.pipeline.data.video.test_video import ENGINES, decode, greys


def images(folder: Path, name: str, numbers: range, size: tuple[int, int] = (32, 32)) -> Path:
    """The i-th is of grey level 20 i."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, number in enumerate(numbers):
        Image.new("RGB", size, (20 * place,) * 3).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "first"),
    [("{}.png", 1), ("{:05d}.png", 0), ("img_{:03d}.jpg", 95), ("{}.JPEG", 8), ("50%d v2 {:02d}.webp", 98)],
)
def test_images_follow_each_other_by_their_numbers(tmp_path, engine, name, first):
    folder = images(tmp_path / "100%s", name, range(first, first + 12))
    (folder / "notes.txt").write_text("no image")
    (folder / "._1.png").write_text("hidden")
    options: dict[str, Any] = {"image_rate": 10.0}
    assert greys(folder, engine, **options) == list(range(12))
    assert greys(folder, engine, frame_step=5, **options) == [0, 5, 10]
    assert greys(folder, engine, frame_step=None, fps=4.0, max_frames=4, **options) == [0, 2, 5, 7]
    _, facts = decode(folder, engine, **options)
    assert (facts.fps, facts.seconds, facts.width, facts.notes) == (10, 1.2, 32, "")


def test_one_image_and_slow_ones(tmp_path):
    assert greys(images(tmp_path / "a", "{}.png", range(7, 8)), "pyav", image_rate=24.0) == [0]
    assert greys(images(tmp_path / "b", "{}.png", range(9, 12)), "pyav", image_rate=0.02) == [0, 1, 2]


def change(folder: Path, how: str) -> str:
    """Returns the reason."""
    path = folder / "0003.png"
    if how == "missing":
        path.unlink()
        return "no image 0003.png, but 0004.png: one is missing, or there are several series"
    if how == "another series":
        path.rename(folder / "flow_0003.png")
        return "no image 0003.png, but flow_0003.png: one is missing, or there are several series"
    if how == "another kind":
        path.rename(folder / "0003.jpg")
        return "no image 0003.png, but 0003.jpg: one is missing, or there are several series"
    if how == "empty":
        path.write_bytes(b"")
        return "0003.png: 0 bytes"
    if how == "a link to nowhere":
        path.unlink()
        path.symlink_to("nowhere")
        return "0003.png: cannot be opened: no such file or directory"
    if how == "larger":
        Image.new("RGB", (64, 32)).save(path)
        return "0003.png: 64x32, but the images before it have 32x32"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "cut" else b"a text")
    return "0003.png: damaged: Invalid data found when processing input"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "how", ["missing", "another series", "another kind", "empty", "a link to nowhere", "larger", "cut", "a text"]
)
def test_what_is_wrong_is_named(tmp_path, engine, how):
    reason = change(images(tmp_path / "a", "{:04d}.png", range(1, 6)), how)
    with pytest.raises(VideoError) as refused:
        decode(tmp_path / "a", engine, image_rate=10.0)
    assert str(refused.value) == reason


def test_a_folder_is_no_video_unless_it_has_a_rate(tmp_path):
    with pytest.raises(VideoError, match="cannot be opened: is a directory"):
        decode(images(tmp_path / "a", "{}.png", range(3)))
    (tmp_path / "b").mkdir()
    with pytest.raises(VideoError, match="no image in the folder"):
        decode(tmp_path / "b", image_rate=10.0)

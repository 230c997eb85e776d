"""Sets of videos to compare, and tiny networks that do."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import compare
from pipeline.metrics.measured import FeatureNetworks
from tests.pipeline.metrics.tiny import tiny_network
from tests.stages.fake_project import moving

KNOWN = FeatureNetworks(tiny_network(0, "ab" * 32), tiny_network(1, "cd" * 32))


def videos(n: int, frames: int = 10, size: int = 16, first: int = 0) -> np.ndarray:
    return np.stack([moving(first + i, frames, size) for i in range(n)])


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def images(root: Path, frames: np.ndarray, name: str = "{:05d}.png") -> Path:
    """Videos as folders of images, numbered from 1."""
    for video, folder in zip(frames, map(str, range(len(frames))), strict=True):
        (root / "class" / folder).mkdir(parents=True)
        for number, frame in enumerate(video, 1):
            Image.fromarray(frame).save(root / "class" / folder / name.format(number))
    return root


def measured(real: Path, generated: Path, networks: FeatureNetworks = KNOWN, **given) -> dict:
    return compare(networks, open_set(real), open_set(generated), **given)

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr

from pipeline.data.pyramid import Pyramid
from pipeline.data.store.codecs import Codec
from pipeline.data.store.writer import StoreWriter, frame_bounds

SIZES = {1: 6, 2: 12, 3: 24}
FACTORS = (2, 3)


def smooth(frames: int, seed: int) -> np.ndarray:
    """uint8 [frames, 24, 24, 3] that JPEG does not make noise of."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, 3, 3, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


def below(view: np.ndarray, factor: int, size: int) -> np.ndarray:
    """torch's own downsampling of every factor-th frame of a whole view."""
    tensor = torch.from_numpy(view[::factor].copy()).permute(0, 3, 1, 2)
    return F.interpolate(tensor, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def store(path: Path, videos: list[np.ndarray], codec: Codec) -> list[zarr.Array]:
    bounds = frame_bounds(400, FACTORS)
    writer = StoreWriter(
        path,
        views={level: (frames, SIZES[level]) for level, frames in bounds.items()},
        videos=len(videos),
        shard_videos=2,
        codec=codec,
    )
    for first in range(0, len(videos), 2):
        with writer.shard(first) as shard:
            for row, video in enumerate(videos[first : first + 2]):
                pyramid = Pyramid(shard, row, FACTORS)
                for frame in video[:5][::-1]:  # begun, then forgotten
                    pyramid.put(frame)
                pyramid.clear()
                for frame in video:
                    pyramid.put(frame)
                assert pyramid.end() == len(video)
    return [zarr.open_array(path, path=f"level-{level}", mode="r") for level in SIZES]


@pytest.mark.parametrize("name", ["none", "blosc", "jpeg"])
def test_views_from_the_view_above_as_it_is_stored(tmp_path, name):
    """Lengths around chunks of 12 and 6 frames, files of 240, and steps of 2 and 3."""
    lengths = [1, 12, 13, 37, 241, 0, 300]
    videos = [smooth(length, seed) for seed, length in enumerate(lengths)]
    low, middle, top = store(tmp_path / name, videos, Codec(name))  # pyright: ignore[reportArgumentType]
    assert (low.attrs["time_factor"], middle.attrs["time_factor"], top.attrs["time_factor"]) == (6, 3, 1)
    for row, video in enumerate(videos):
        stored = np.asarray(top[row, : len(video)])
        if name == "jpeg" and len(video):
            assert 0 < np.abs(stored.astype(int) - video).mean() < 4
        else:
            assert np.array_equal(stored, video)
        assert not np.asarray(top[row, -(-len(video) // 12) * 12 :]).any()
        second = below(stored, 3, 12) if len(video) else np.zeros((0, 12, 12, 3), np.uint8)
        assert np.array_equal(np.asarray(middle[row, : len(second)]), second)
        assert not np.asarray(middle[row, len(second) :]).any()
        first = below(second, 2, 6) if len(video) else np.zeros((0, 6, 6, 3), np.uint8)
        assert np.array_equal(np.asarray(low[row, : len(first)]), first)

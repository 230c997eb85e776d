import math
import shutil

import numpy as np
import pytest

from pipeline.data import predict as module
from pipeline.data.decode import decode
from pipeline.data.layouts.listing import prepare_listing
from pipeline.data.predict import finished_table, listed_videos, predict
from pipeline.data.store.opening import finished_size
from pipeline.data.store.writer import SHARD_CHUNKS
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.project.describe import describe_data, description_text
from tests.pipeline.data.test_decode import film, params


@pytest.fixture
def project(tmp_path):
    """Nine videos; of the last, only the header says what it would have been."""
    for number, frames in enumerate((40, 60, 12, 1, 100, 33, 47, 52, 24)):
        film(tmp_path / "videos" / "train" / f"{number}.mp4", frames, number)
    whole = (tmp_path / "videos" / "train" / "8.mp4").read_bytes()
    (tmp_path / "videos" / "train" / "8.mp4").write_bytes(whole[: len(whole) // 2])
    prepare_listing(params(), Paths(tmp_path))
    return Paths(tmp_path)


@pytest.mark.parametrize("codec", ["none", "blosc", "jpeg"])
def test_few_videos_are_predicted_as_they_come(project, codec):
    chosen = params(codec=codec, max_failed=0.5, min_frames=2)
    found = predict(chosen, project, listed_videos(chosen, project))
    decode(chosen, project, 2)
    written, size = finished_size(project.pyramid), found.sizes[codec]
    assert size.files == written.files
    for level in (1, 2):
        assert size.bytes[level] == pytest.approx(written.bytes[level], rel=0.02)
    table = finished_table(chosen, project, 9)
    assert table is not None
    assert found.frames == table["n_frames"].sum()
    assert (found.videos, found.sampled, found.left_out) == (9, 9, 9 - len(table))
    assert found.left_out == 2  # one frame; damaged
    assert found.spread[codec] == 0


def test_only_lengths_are_looked_at_for_raw_frames(project, monkeypatch):
    monkeypatch.setattr(module, "decode_one", None)
    chosen = params(max_frames=20, min_frames=5)
    videos = listed_videos(chosen, project)[:8]
    found = predict(chosen, project, videos, ["none"])
    assert found.frames == 20 + 20 + 6 + 20 + 17 + 20 + 20
    assert found.left_out == 1


def test_a_sample_stands_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 5)
    for number in range(20):
        film(tmp_path / "videos" / f"{number:02d}.mp4", 24 + 24 * (number % 2), number)
    (tmp_path / "videos" / "00.mp4").write_bytes(b"")  # the first and the last are always looked at
    paths = Paths(tmp_path)
    prepare_listing(params(), paths)
    found = predict(params(), paths, listed_videos(params(), paths), ["none"])
    # Rows 0, 5, 10, 14, 19 (of 4.75 apart) have 0, 24, 12, 12, 24 frames in chunks of 12 of the top view, 6 below,
    # each with 4 bytes of its checksum.
    assert (found.sampled, found.left_out) == (5, 1)
    assert found.frames == round((24 + 12 + 12 + 24) / 5 * 20)
    chunks = np.array([0, 2, 1, 1, 2])
    assert found.spread["none"] == pytest.approx(
        20 * chunks.std(ddof=1) * ((12 * 32**2 + 6 * 16**2) * 3 + 2 * 4) / math.sqrt(5) * math.sqrt(15 / 20)
    )
    # Shards of 2 rows: of the sample over and over, every pair has at least one video; so has every file.
    assert found.sizes["none"].files == {1: 10, 2: 10}
    index = 10 * (2 * 16 * SHARD_CHUNKS + 4)
    assert found.sizes["none"].bytes[2] == 20 * chunks.mean() * (12 * 32**2 * 3 + 4) + index


def test_what_cannot_be_predicted_says_why(tmp_path):
    paths = Paths(tmp_path)
    assert "listing.csv does not exist; `hvg index`" in describe_data(params(), paths)["reason"]
    (tmp_path / "videos" / "train").mkdir(parents=True)
    (tmp_path / "videos" / "train" / "a.mp4").write_bytes(b"no video")
    prepare_listing(params(), paths)
    with pytest.raises(UserError, match=r"data\.root: of 1 videos looked at under .* none can be decoded"):
        predict(params(), paths, listed_videos(params(), paths))
    assert describe_data(params(), paths)["state"] == "unknown"


def test_time_is_bounded(project, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    with pytest.raises(UserError, match="within 0 s"):
        predict(params(), project, listed_videos(params(), project))


NETWORKS = {"levels": {}, "conditions": {}, "samples": {"videos": 3, "bytes": 1}, "classes": 0}


def test_describe_shows_what_is_there(project):
    chosen = params(max_failed=0.5)
    before = describe_data(chosen, project)
    assert before["state"] == "predicted"
    text = description_text({**NETWORKS, "data": before})
    assert "data: 9 videos, about" in text and "(± 0.0%)" in text and "blosc about" in text and "jpeg about" in text
    assert "by 9 of the videos, of which 1 would be left out" in text
    decode(chosen, project, 1)
    after = describe_data(chosen, project)
    assert (after["state"], after["videos"]) == ("decoded", 8)
    assert after["sizes"]["none"]["bytes"] == before["sizes"]["none"]["bytes"]
    assert "8 videos" in description_text({**NETWORKS, "data": after})
    # A pyramid of other parameters, or of another data set, is none of this recipe's.
    others = [params(frame_step=3), params(codec="blosc"), params(max_frames=16)]
    assert [describe_data(other, project)["state"] for other in others] == ["predicted"] * 3
    assert finished_table(chosen, project, 8) is None
    shutil.rmtree(project.root / "videos")
    assert describe_data(chosen, project)["state"] == "decoded"

import json

import av
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline import cli
from pipeline.bench import loader
from pipeline.bench.loader import bench_loader, read_source, write_synthetic
from pipeline.data.store.opening import open_group
from pipeline.errors import UserError
from pipeline.paths import Paths


def write_greys(path, frames: int) -> None:
    """A video at 10 frames a second whose frame k has the grey level 2k, a keyframe every 8."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb24"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 2 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def root(tmp_path):
    (tmp_path / "videos" / "a").mkdir(parents=True)
    write_greys(tmp_path / "videos" / "a" / "grey.mp4", 40)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


@pytest.fixture
def pyramid(tmp_path):
    write_synthetic(tmp_path / "pyramid", videos=5, frames=16, size=16)
    return tmp_path / "pyramid"


def test_every_way_reads_the_same_windows(tmp_path, pyramid):
    readers = loader._readers(pyramid)
    assert [(reader.size, reader.factor) for reader in readers] == [(16, 1), (4, 2)]
    ways = [loader._copy(readers, np.array([1, 4]), tmp_path), loader._zarr(open_group(pyramid), readers)]
    for video, start in ((1, 0), (4, 4), (4, 2)):
        expected = readers[0].read(video, start, 12)
        for way in ways:
            assert np.array_equal(way(0, video, start, 12), expected)
            assert np.array_equal(way(1, video, start // 2, 6), expected[::2, ::4, ::4])


def test_rates_are_given_beside_the_copys(pyramid, root):
    found = bench_loader(pyramid, root, windows=3, rounds=2)
    assert found["views"] == "12/16x16 none, 6/4x4 none"
    assert found["videos"] == 5
    assert found["to_memmap"][loader.COPY] == 1
    assert set(found["to_memmap"]) == {loader.COPY, loader.OURS, loader.ZARR, loader.SOURCES}
    assert min(found["clips_per_cpu_second"].values()) > 0
    assert loader.SOURCES not in bench_loader(pyramid, None, windows=1, rounds=1)["to_memmap"]


@pytest.mark.parametrize(
    ("moment", "levels"), [(0, [0, 6, 12, 18]), (0.5, [28, 34, 40, 46]), (1, [56, 62, 68, 74])], ids=str
)
def test_a_source_is_decoded_from_a_moment_on(root, moment, levels):
    """40 frames; a window of 4 takes 12, so that the last begins at frame 28."""
    images = np.stack(read_source(root / "a" / "grey.mp4", moment, frame_step=3, frames=4, size=8))
    assert images.shape == (4, 8, 8, 3)
    assert images[:, 4, 4, 0].tolist() == levels
    assert np.ptp(images, axis=(1, 2, 3)).max() <= 1


def test_what_is_missing_is_named(pyramid, root):
    assert read_source(root / "broken.mp4", 0, frame_step=1, frames=4, size=8) == []
    (root / "a" / "grey.mp4").unlink()
    with pytest.raises(UserError, match="no video that can be decoded"):
        bench_loader(pyramid, root, windows=1, rounds=1)


def test_the_command_prints_a_table_or_json(pyramid, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "Paths", lambda: Paths(tmp_path))
    (tmp_path / "dvc.yaml").touch()
    arguments = ["bench", "loader", "--pyramid", str(pyramid), "--windows", "2", "--rounds", "1"]
    shown = CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    assert "ViewReader" in shown.stdout and "clips per cpu second" in shown.stdout
    shown = CliRunner().invoke(cli.cli, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["windows"] == 2
    with pytest.raises(UserError, match=r"--pyramid .*no finished pyramid"):
        CliRunner().invoke(cli.cli, ["bench", "loader", "--pyramid", str(tmp_path)], catch_exceptions=False)

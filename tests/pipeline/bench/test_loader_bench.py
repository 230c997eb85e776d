import json

import av
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline import cli
from pipeline.bench import loader
from pipeline.bench.loader import bench_loader, loader_table, read_source, write_synthetic
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
def pyramid(tmp_path, root):
    write_synthetic(tmp_path / "pyramid", root, videos=5, frames=16, size=16)
    return tmp_path / "pyramid"


def test_every_way_reads_the_same_windows(tmp_path, pyramid):
    views = loader._views(pyramid)
    assert [(view.reader.size, view.factor, view.window) for view in views] == [(16, 1, 12), (4, 2, 6)]
    ways = [loader._copy(views, np.array([1, 4]), tmp_path), loader._ours(views), loader._zarr(views)]
    for window in ((1, 0), (4, 4), (4, 2)):
        clips = [way(*window) for way in ways]
        for top, low in clips:
            assert np.array_equal(low, top[::2, ::4, ::4]) and len(top) == 12
            assert np.array_equal(top, clips[0][0])


def test_rates_are_given_beside_the_copys(pyramid, root):
    found = bench_loader(pyramid, root, windows=3, rounds=2)
    assert found["views"] == ["12/16x16", "6/4x4"] and found["codecs"] == ["none", "none"]
    assert found["videos"] == 5
    assert found["to_memmap"][loader.COPY] == 1
    assert set(found["to_memmap"]) == {loader.COPY, loader.OURS, loader.ZARR, loader.SOURCES}
    assert min(found["clips_per_cpu_second"].values()) > 0
    assert all(name in loader_table(found) for name in found["to_memmap"])
    assert loader.SOURCES not in bench_loader(pyramid, None, windows=1, rounds=1)["to_memmap"]


@pytest.mark.parametrize(
    ("first", "levels"), [(0, [0, 6, 12, 18]), (11, [22, 28, 34, 40]), (100, [56, 62, 68, 74])], ids=str
)
def test_a_source_is_decoded_from_a_frame_on(root, first, levels):
    images = read_source(root / "a" / "grey.mp4", first, frame_step=3, frames=4, size=8)
    assert images.shape == (4, 8, 8, 3)
    assert images[:, 4, 4, 0].tolist() == levels
    assert np.ptp(images, axis=(1, 2, 3)).max() <= 1


def test_what_is_missing_is_named(tmp_path, pyramid, root):
    with pytest.raises(UserError, match=r"broken.mp4 cannot be decoded"):
        read_source(root / "broken.mp4", 0, frame_step=1, frames=4, size=8)
    (root / "a" / "grey.mp4").unlink()
    with pytest.raises(UserError, match=r"grey.mp4 cannot be decoded"):
        bench_loader(pyramid, root, windows=1, rounds=1)
    with pytest.raises(UserError, match="no video that can be decoded"):
        write_synthetic(tmp_path / "other", root, videos=1, frames=16, size=16)


def test_the_command_prints_a_table_or_json(pyramid, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "Paths", lambda: Paths(tmp_path))
    (tmp_path / "dvc.yaml").touch()
    arguments = ["bench", "loader", "--pyramid", str(pyramid), "--windows", "2", "--rounds", "1"]
    shown = CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    assert "ViewReader" in shown.stdout and "clips a CPU second" in shown.stdout
    shown = CliRunner().invoke(cli.cli, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["windows"] == 2
    with pytest.raises(UserError, match=r"--pyramid .*no finished pyramid"):
        CliRunner().invoke(cli.cli, ["bench", "loader", "--pyramid", str(tmp_path)], catch_exceptions=False)

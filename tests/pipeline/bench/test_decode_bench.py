import numpy as np
import pytest

from pipeline.bench.decode import bench_decode
from pipeline.data.shapes_files import encode
from pipeline.errors import UserError
from tests.pipeline.data.test_decode import params


def test_ratios_of_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.bench.decode.WORK_SECONDS", 0.1)
    frames = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    for number in range(3):
        encode(frames, tmp_path / f"{number}.mp4", 10)
    (tmp_path / "broken.mp4").write_bytes(b"x")
    found = bench_decode(params(), tmp_path, rounds=1, files=2, workers=2)
    assert (found["files"], found["frames"]) == (2, 24)
    cost = found["cpu_us_per_frame"]
    assert {"decode", "pyav, all frames", "ffmpeg -f null"} <= set(cost)
    for name, value in cost.items():
        assert value > 0
        assert found["to_pyav"][name] == pytest.approx(value / cost["pyav, all frames"])
        assert found["to_ffmpeg"][name] == pytest.approx(value / cost["ffmpeg -f null"])
    assert min(found["speedup"], found["speedup_of_pyav"]) > 0


def test_nothing_to_measure(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(folder)):
            bench_decode(params(), folder, rounds=1, files=2, workers=2)

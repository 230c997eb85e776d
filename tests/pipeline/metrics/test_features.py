"""Preprocessing, and what is taken and refused as weights and as frames."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.i3d import I3D
from pipeline.errors import UserError
from pipeline.metrics import features
from pipeline.metrics.features import (
    FeatureNetwork,
    extract,
    forth_and_back,
    load_i3d,
    preprocess,
    random_i3d,
)
from pipeline.metrics.measured import FeatureNetworks
from pipeline.metrics.protocol import protocol

KEY = "evaluation.i3d_k400"


def test_short_clips_are_played_forth_and_back():
    assert forth_and_back(6).tolist() == [0, 1, 2, 3, 4, 5, 4, 3, 2]
    assert forth_and_back(3).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert forth_and_back(2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert forth_and_back(1).tolist() == [0] * 9
    assert forth_and_back(12).tolist() == list(range(12))


def test_preprocessing_range_and_kernel():
    clip = torch.zeros(1, 9, 3, 2, 2, dtype=torch.uint8)
    clip[..., 1] = 255
    x = preprocess(clip)
    assert x.shape == (1, 9, 3, 224, 224)
    row = x[0, 0, 0, 0]
    assert row[0] == -1 and row[-1] == 1
    # align_corners=False: output pixel 112 lies at (112 + 0.5) * 2 / 224 - 0.5 of the input
    assert row[112].item() == pytest.approx(-1 + 2 * (112.5 * 2 / 224 - 0.5), abs=1e-5)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    network = I3D(400)
    network.randomize(1)
    return network.state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_load_from_either_format(tmp_path, state, suffix):
    path = tmp_path / f"i3d{suffix}"
    if suffix == ".pt":
        old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
        torch.save(old, path)
    else:
        save_file(state, path)
    found = load_i3d(path, 400, KEY)
    assert not found.random and found.sha256 is not None and len(found.sha256) == 64
    assert torch.equal(found.network.state_dict()["Mixed_4f.b2b.conv3d.weight"], state["Mixed_4f.b2b.conv3d.weight"])
    assert not found.network.training


def test_another_network_is_refused_by_its_first_wrong_tensor(tmp_path, state):
    path = tmp_path / "i3d.safetensors"
    wrong = dict(state) | {"Mixed_3c.b1b.conv3d.weight": torch.zeros(2, 2), "logits.conv3d.bias": torch.zeros(3)}
    save_file(wrong, path)
    with pytest.raises(UserError, match=r"i3d_k400.*Mixed_3c\.b1b\.conv3d\.weight has shape \(2, 2\), not \(192, 128"):
        load_i3d(path, 400, KEY)
    save_file({name: tensor for name, tensor in state.items() if not name.startswith("Conv3d_2b")}, path)
    with pytest.raises(UserError, match=r"Conv3d_2b_1x1\.conv3d\.weight is missing"):
        load_i3d(path, 400, KEY)
    save_file(dict(state) | {"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"fc\.weight is unknown"):
        load_i3d(path, 400, KEY)
    save_file(state, path)
    with pytest.raises(UserError, match=r"not an I3D of 600 classes: logits\.conv3d\.weight"):
        load_i3d(path, 600, "evaluation.i3d_k600")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.where(x < 0, float("nan")), "holds NaN or infinity"),
        (lambda x: (x + 1).double() * 1e300, "holds NaN or infinity"),  # as float32
        (lambda x: x.to_sparse(), "is no dense tensor"),
        (lambda x: x.to("meta"), "is no dense tensor"),
        (lambda x: x.int(), "is torch.int32, not floating point"),
        (lambda x: x.cfloat(), "is torch.complex64, not floating point"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is torch.qint8, not floating point"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_dense_finite_numbers_are_refused_by_name(tmp_path, state, change, says):
    path = tmp_path / "i3d.pt"
    torch.save(state | {"logits.conv3d.bias": change(state["logits.conv3d.bias"])}, path)
    with pytest.raises(UserError, match=rf"i3d_k400.*i3d\.pt.*logits\.conv3d\.bias {says}"):
        load_i3d(path, 400, KEY)


class _Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_missing_broken_and_pickled_files_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no such file"):
        load_i3d(tmp_path / "none.pt", 400, KEY)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match="no readable state dict"):
        load_i3d(broken, 400, KEY)
    torch.save({"x": _Evil()}, broken)
    with pytest.raises(UserError, match="no readable state dict"):
        load_i3d(broken, 400, KEY)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_damaged_files_are_refused_whatever_is_damaged(tmp_path, monkeypatch, archive):
    network = I3D(400)
    monkeypatch.setattr(features, "I3D", lambda classes: network)  # made once
    path = tmp_path / "i3d.pt"
    torch.save({"x": torch.arange(4.0)}, path, _use_new_zipfile_serialization=archive)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    damaged = [b"", b"\x80", whole[: len(whole) // 2], b"PK\x05\x06" + bytes(18)]
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 4, 16])):
            content[draw.integers(len(content) if archive else 300)] = draw.integers(256)
        damaged.append(bytes(content))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError, match="i3d_k400") as refused:
            load_i3d(path, 400, KEY)
        assert "\n" not in str(refused.value)


def test_features_of_clips_do_not_depend_on_the_batch():
    network = random_i3d()
    clips = torch.randint(0, 256, (5, 1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = torch.cat([f.pooled for f in extract(network, clips)])
    assert together.shape == (5, 1024)
    alone = next(iter(extract(network, clips[4:]))).pooled
    torch.testing.assert_close(together[4:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 6])
def test_a_short_clip_is_measured_as_itself_played_forth_and_back(frames):
    network = random_i3d()
    clips = torch.randint(0, 256, (1, frames, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    played = clips[:, [0] * 9 if frames == 1 else [0, 1, 2, 3, 4, 5, 4, 3, 2]]
    short, whole = next(extract(network, clips)), next(extract(network, played))
    assert torch.equal(short.logits, whole.logits) and torch.isfinite(short.pooled).all()


def test_bfloat16_is_as_far_off_as_it_is_said_to_be():
    """Of one clip: a processor below AVX-512 has no kernels for it, and takes a minute."""
    network = random_i3d()
    clips = torch.randint(0, 256, (1, 9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = next(extract(network, clips)), next(extract(replace(network, precision="bfloat16"), clips))
    for name in ("pooled", "logits"):
        a, b = getattr(exact, name), getattr(rounded, name)
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() / a.norm() < 0.1  # docs/metrics.md


class LikeFvds(torch.nn.Module):
    """Called as the TorchScript file of FVD is; its 400 "logits" are the mean of the video times 0, 1, 2 …"""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(float(outputs)))

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if rescale:
            x = x / 255
        if resize:
            x = x[..., :1]
        mean = x.mean(dim=(1, 2, 3, 4))
        return mean[:, None] * self.scale if return_features else mean[:, None].softmax(dim=1)


def _script(path: Path, module: torch.nn.Module) -> Path:
    torch.jit.script(module).save(path)
    return path


def test_the_torchscript_file_of_fvd_sees_our_preprocessing(tmp_path, caplog):
    path = _script(tmp_path / "i3d_torchscript.pt", LikeFvds(400))
    found = load_i3d(path, 400, KEY)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "TorchScript" in found.weights and "a program" in caplog.text
    clips = torch.full((2, 9, 3, 4, 4), 255, dtype=torch.uint8)
    clips[1] = 0
    seen = next(extract(found, clips))
    torch.testing.assert_close(seen.logits, torch.stack([torch.arange(400.0), -torch.arange(400.0)]))
    assert seen.pooled.shape == (2, 0)


def test_other_torchscript_is_refused(tmp_path):
    path = _script(tmp_path / "i3d.pt", LikeFvds(400))
    with pytest.raises(UserError, match=r"i3d_k600.*no pooled activations"):
        load_i3d(path, 600, "evaluation.i3d_k600")
    with pytest.raises(UserError, match=r"gives \(1, 7\), not \(1, 400\)"):
        load_i3d(_script(tmp_path / "seven.pt", LikeFvds(7)), 400, KEY)
    with pytest.raises(UserError, match="cannot be read, or called"):
        load_i3d(_script(tmp_path / "relu.pt", torch.nn.ReLU()), 400, KEY)


class _Blows(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        return torch.full([1, 400], float("inf"))


def test_damaged_torchscript_is_refused(tmp_path):
    path = _script(tmp_path / "i3d.pt", LikeFvds(400))
    whole = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as archive:
        archive.writestr("x/code/a.py", "no program")
    entry = whole.rindex(b"PK\x01\x02")
    (tmp_path / "name.pt").write_bytes(whole[: entry + 9] + b"\x08" + whole[entry + 10 : -60] + b"\xff" + whole[-59:])
    (tmp_path / "directory.pt").write_bytes(whole[:entry] + b"XX" + whole[entry + 2 :])
    code = whole.index(b".py") + 100  # in the first program
    (tmp_path / "code.pt").write_bytes(whole[:code] + bytes(8) + whole[code + 8 :])
    for name in ("empty", "name", "directory", "code"):
        with pytest.raises(UserError, match=rf"i3d_k400.*{name}\.pt: (no readable|not FVD)"):
            load_i3d(tmp_path / f"{name}.pt", 400, KEY)
    with pytest.raises(UserError, match="NaN or infinity"):
        load_i3d(_script(tmp_path / "blows.pt", _Blows()), 400, KEY)


class _Prints(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        print("a program was run")
        return torch.zeros(1, 400)


def test_no_program_is_run_under_another_name_or_for_kinetics_600(tmp_path, capfd, monkeypatch):
    plain = _script(tmp_path / "plain.pt", _Prints())
    load_i3d(plain, 400, KEY)
    assert "a program was run" in capfd.readouterr().out  # as it says where it is run
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program is loaded"))
    for name in ("evil.safetensors", "evil", "evil.bin"):
        with pytest.raises(UserError, match="no readable state dict"):
            load_i3d(_script(tmp_path / name, _Prints()), 400, KEY)
    with pytest.raises(UserError, match="no pooled activations"):
        load_i3d(plain, 600, "levels.1.training.early_stopping.i3d")
    assert "a program was run" not in capfd.readouterr().out


def test_a_frozen_script_without_parameters_measures(tmp_path):
    path = tmp_path / "frozen.pt"
    torch.jit.freeze(torch.jit.script(LikeFvds(400).eval())).save(path)
    found = load_i3d(path, 400, KEY)
    assert not list(found.network.parameters()) and found.device == torch.device("cpu")
    seen = next(extract(found, torch.full((1, 9, 3, 4, 4), 255, dtype=torch.uint8)))
    torch.testing.assert_close(seen.logits, torch.arange(400.0)[None])


def test_the_protocol_says_how_short_clips_are_played():
    with torch.device("meta"):
        network = FeatureNetwork(I3D(5), "k.pt", "ab" * 32)
    chosen = {
        "real_split": "val", "real_videos": 2, "generated_videos": 2, "size": 8, "frame_step": 2, "sigma": 1.0,
        "splits": 1, "psd_frames": (1,), "psd_sets": 1, "seed": 0, "pyramid": "a", "samples": "b", "start": "0",
    }  # fmt: skip
    networks = FeatureNetworks(network, network)
    short = protocol(networks, frames=6, **chosen)
    assert "forth and back until there are 9" in short["played"]
    assert short["logits_sha256"] == "ab" * 32 and short["precision"] == "float32"
    assert protocol(networks, frames=9, **chosen)["played"] == "once"

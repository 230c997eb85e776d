"""Preprocessing, and what is taken and refused as weights and as frames."""

from dataclasses import replace

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


@pytest.mark.filterwarnings("ignore")
def test_a_program_is_no_state_dict(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "i3d_torchscript.pt")
    with pytest.raises(UserError, match=r"i3d_k400.*i3d_torchscript\.pt: no readable state dict"):
        load_i3d(tmp_path / "i3d_torchscript.pt", 400, KEY)


def test_the_protocol_says_how_short_clips_are_played():
    with torch.device("meta"):
        network = FeatureNetwork(I3D(5), "k.pt", "ab" * 32)
    chosen = {
        "real_split": "val", "real_videos": 2, "generated_videos": 2, "size": 8, "frame_step": 2, "fps": None,
        "sigma": 1.0, "splits": 1, "psd_frames": (1,), "psd_sets": 1, "seed": 0, "pyramid": "a", "samples": "b",
        "start": "0",
    }  # fmt: skip
    networks = FeatureNetworks(network)
    short = protocol(networks, frames=6, **chosen)
    assert "forth and back until there are 9" in short["played"]
    assert short["logits_sha256"] == "ab" * 32 and short["precision"] == "float32"
    assert protocol(networks, frames=9, **chosen)["played"] == "once"

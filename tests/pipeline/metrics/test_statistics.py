"""What was measured of REAL, kept in a file: what stands for it, and what is refused."""

import json

import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.cli import cli
from pipeline.errors import UserError
from pipeline.metrics import evaluation, statistics
from pipeline.metrics.clip_sets import open_set
from pipeline.metrics.compare_sets import compare
from pipeline.metrics.measured import FeatureNetworks
from pipeline.metrics.statistics import read_statistics
from tests.pipeline.metrics.sets import KNOWN, measured, saved, videos
from tests.pipeline.metrics.tiny import tiny_network


def test_saved_statistics_stand_for_the_real_set(tmp_path):
    real, generated, kept = (
        saved(tmp_path / "r.npy", videos(5, 12)),
        saved(tmp_path / "g.npy", videos(4, first=9)),
        tmp_path / "r.safetensors",
    )
    first = measured(real, generated, clips=6, seed=2, save=kept)
    real.unlink()
    again = compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), clips=6, seed=2)
    assert again == first and first["fvd"] > 0 and first["protocol"]["real_videos"] == 6
    other = compare(
        KNOWN, read_statistics(kept, KNOWN), open_set(saved(tmp_path / "h.npy", videos(4, 12, 32, first=20)))
    )
    assert other["protocol"]["frames"] == 10 and other["protocol"]["size"] == 16  # as those of REAL
    assert other["protocol"]["generated_start"].startswith("the first frames")
    with pytest.raises(UserError, match=r"--frames: .* is of clips of 10, not 9"):
        compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), frames=9)
    with pytest.raises(UserError, match=r"--size: .* is of clips of 16, not 32"):
        compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), size=32)
    assert compare(KNOWN, read_statistics(kept, KNOWN), open_set(generated), frames=10, size=16)["fvd"] > 0


def test_statistics_of_other_networks_or_code_are_told(tmp_path, caplog, monkeypatch):
    array, kept = saved(tmp_path / "a.npy", videos(3)), tmp_path / "a.safetensors"
    measured(array, array, save=kept)
    for networks, says in (
        (
            FeatureNetworks(tiny_network(0, "ef" * 32), KNOWN.k600),
            "measured by the k400 I3D 'abababababababab', not by 'ef",
        ),
        (
            FeatureNetworks(KNOWN.k400),
            "measured by the k600 I3D 'cdcdcdcdcdcdcdcd', not by 'none'.*--i3d-k600",
        ),
        (FeatureNetworks(tiny_network()), "not by 'random, seed 0'"),
    ):
        with pytest.raises(UserError, match=says):
            read_statistics(kept, networks)
    assert not caplog.text
    monkeypatch.setattr(statistics, "code_hash", lambda *_, **__: "another")
    read_statistics(kept, KNOWN)
    assert "another version of this code" in caplog.text


def test_damaged_statistics_are_refused_in_one_line(tmp_path):
    array, kept = saved(tmp_path / "a.npy", videos(3)), tmp_path / "a.safetensors"
    measured(array, array, save=kept)
    content = kept.read_bytes()
    with safe_open(kept, "pt") as opened:
        said, names = opened.metadata(), opened.keys()
        tensors = {name: opened.get_tensor(name) for name in names}
    facts = json.loads(said["facts"])

    def refused() -> None:
        with pytest.raises(UserError, match="save it anew by") as said:
            read_statistics(kept, KNOWN)
        assert str(kept) in str(said.value) and "\n" not in str(said.value)

    for damaged in (b"", b"{}", content[:7], content[:99], content[:-1], b"\xff" * 8 + content[8:], content + b"0"):
        kept.write_bytes(damaged)
        refused()
    for odd in (
        {},
        {"spectra": None},
        {"logits": tensors["logits"][:2]},
        {"logits": tensors["logits"] * float("nan")},
        {"logits": tensors["logits"].long()},
        {"pooled": tensors["pooled"][0]},
        {"more": tensors["pooled"].clone()},
    ):
        changed = {name: tensor for name, tensor in (tensors | odd).items() if tensor is not None} if odd else {}
        save_file(changed, kept, said)
        refused()
    for key, values in {
        "frames": (0, -1, 2**21, 1.5, True, "9", None),
        "size": (0, 2**14),
        "fps": (-0.1, 1e10, float("nan"), [1], [1, 2, 3], "24"),
        "frame_step": (0, 2**40),
        "clips_per_video": (0,),
        "start": ("", "a\nb", 3),
        "more": (1,),
    }.items():
        for value in values:
            save_file(tensors, kept, said | {"facts": json.dumps(facts | {key: value})})
            refused()
    for text in ("", "[]", "null", "[" * 10**5, json.dumps({"what": "x"})):
        save_file(tensors, kept, said | {"facts": text})
        refused()
    for missing in said:
        save_file(tensors, kept, {name: text for name, text in said.items() if name != missing})
        refused()
    save_file(tensors, kept)
    refused()
    kept.unlink()
    kept.mkdir()
    with pytest.raises(UserError, match="no video in it"):
        open_set(kept)


def test_the_command_saves_statistics_and_takes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.metrics.weights.installed_file", lambda: tmp_path / "none")
    monkeypatch.setattr(evaluation, "random_i3d", lambda seed, device: tiny_network(seed))
    saved(tmp_path / "a.npy", videos(3))
    saved(tmp_path / "b.npy", videos(3, first=5))

    def run(*args: str) -> str:
        return CliRunner().invoke(cli, ["metrics", *args], catch_exceptions=False).stdout

    first = json.loads(run("a.npy", "b.npy", "--clips", "3", "--save-statistics", "a.safetensors", "--json"))
    assert json.loads(run("a.safetensors", "b.npy", "--clips", "3", "--json")) == first
    refusals = {
        ("a.npy", "b.npy", "--save-statistics", "a.safetensors"): "--save-statistics: a.safetensors is there already",
        ("a.npy", "b.npy", "--save-statistics", "c.npz"): r"does not end in \.safetensors",
        ("a.npy", "b.npy", "--fps", "8", "--real-step", "2"): "--real-step and --fps: .* give one of them",
        ("a.safetensors", "b.npy", "--real-step", "2"): "--real-step: a.safetensors has been measured already",
        ("a.npy", "a.safetensors"): "a.safetensors: no such set; give a folder.* stand for REAL alone",
    }
    for args, says in refusals.items():
        with pytest.raises(UserError, match=says):
            run(*args)

"""What is kept of sets, the numbers and tables they give, and that two workers measure what one does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from models.i3d import I3D
from pipeline.metrics import cache, tables
from pipeline.metrics.cache import kept
from pipeline.metrics.features import FeatureNetwork, extract
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.measured import (
    PAIRS,
    RANDOM_PAIRS,
    FeatureNetworks,
    Measured,
    biased_measures,
    measure,
    motion_scores,
    scores,
)
from pipeline.metrics.pairwise import kernel_distance, share_inside
from pipeline.metrics.tables import at_infinity, class_table, count_table, motion_table, psd_table
from pipeline.workers import ALONE, Workers
from tests.pipeline.metrics.tiny import tiny_network


def networks(*, random: bool = False) -> FeatureNetworks:
    if random:
        return FeatureNetworks(tiny_network(0))
    return FeatureNetworks(tiny_network(0, "ab" * 32), tiny_network(1, "cd" * 32))


def clips(n: int, seed: int, frames: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, frames, 3, 8, 8), dtype=torch.uint8, generator=draw)


def measured(nets: FeatureNetworks, videos: torch.Tensor) -> Measured:
    """Their labels are 0, 1, 2, 0 …"""
    found = measure(nets, iter(videos.movedim(2, -1).numpy()), (1,))
    return found.gather(torch.arange(len(videos)) % 3, len(videos), ALONE)


def test_one_pass_measures_what_features_held_whole_give():
    nets = networks()
    a, b = clips(12, 0), clips(10, 1)
    real, generated = measured(nets, a), measured(nets, b)
    found = scores(nets, real, generated, 2)
    assert set(found) == {"fvd", "fid_k400", "fid", "inception_score", "inception_score_deviation", *PAIRS}

    def features(network, videos):
        found = list(extract(network, videos))
        return torch.cat([f.logits for f in found]), torch.cat([f.pooled for f in found])

    logits, pooled = zip(features(nets.k400, a), features(nets.k400, b), strict=True)
    pooled_k600 = features(nets.k600, a)[1], features(nets.k600, b)[1]
    assert found["fvd"] == pytest.approx(frechet_distance(*logits), rel=1e-5)
    assert found["fid_k400"] == pytest.approx(frechet_distance(*pooled), rel=1e-5)
    assert found["fid"] == pytest.approx(frechet_distance(*pooled_k600), rel=1e-5)
    assert found["fid"] != pytest.approx(found["fid_k400"], rel=1e-3)
    assert (found["inception_score"], found["inception_score_deviation"]) == pytest.approx(
        inception_score(logits[1], 2)
    )
    torch.testing.assert_close(real.logits, logits[0])
    assert real.labels.tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize("most", [3, 4, 6, 12])
def test_features_of_the_first_clips_and_frames_of_all(most):
    nets, videos = networks(), clips(12, 0)
    whole = measured(nets, videos)
    found = measure(nets, iter(videos.movedim(2, -1).numpy()), (1,), most)
    assert len(found.labels) == len(found.logits) == len(found.pooled) == most
    torch.testing.assert_close(found.logits, whole.logits[:most])
    torch.testing.assert_close(found.pooled, whole.pooled[:most])
    assert torch.equal(found.spectra, whole.spectra) and torch.equal(found.motion, whole.motion)


def test_the_same_set_on_both_sides_is_at_no_distance():
    nets = networks()
    found = measured(nets, clips(8, 0))
    same = scores(nets, found, found, None)
    assert max(same["fvd"], same["fid"]) < 1e-6 and same["precision"] == same["recall"] == 1
    assert motion_scores(found, found)["motion_real"] == motion_scores(found, found)["motion_generated"] > 0


def test_one_video_is_too_few():
    one = measured(networks(), clips(1, 0))
    with pytest.raises(ValueError, match="at least 2 videos"):
        scores(networks(), one, one, None)


def test_a_network_that_says_nan_is_refused():
    nets = networks()
    with torch.no_grad():
        nets.k400.network.weight.fill_(float("nan"))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="not finite"):
        measured(nets, clips(2, 0))


def test_random_weights_never_give_famous_names():
    with torch.device("meta"):
        some = I3D(5)
    unknown, known = FeatureNetwork(some, "random, seed 0", None), FeatureNetwork(some, "k.pt", "ab" * 32)
    other = FeatureNetwork(some, "k600.pt", "cd" * 32)
    real, generated = measured(networks(), clips(4, 0)), measured(networks(), clips(4, 1))
    for nets, names, pairs in (
        (FeatureNetworks(unknown), {"random_i3d_frechet_logits", "random_i3d_frechet_pooled"}, RANDOM_PAIRS),
        (FeatureNetworks(known), {"fvd", "fid_k400", "inception_score"}, PAIRS),
        (FeatureNetworks(known, other), {"fvd", "fid_k400", "fid", "inception_score"}, PAIRS),
        (
            FeatureNetworks(unknown, other),
            {"random_i3d_frechet_logits", "random_i3d_frechet_pooled", "fid"},
            RANDOM_PAIRS,
        ),
    ):
        found = scores(nets, real, generated, 1)
        assert set(found) - {"inception_score_deviation"} == {*names, *pairs}
        assert all(name.startswith("random_i3d") for name in RANDOM_PAIRS)
        counts = count_table(nets, real, generated, metrics=found, splits=1, seed=0)
        assert set(counts["metric"]) == names
        found = class_table(nets, real, generated, ["a"], 1)
        assert set(found.columns) - {"class", "real", "generated"} == {*names, *pairs}


def test_classes_are_compared_each_with_itself():
    nets = networks()
    a, b = clips(12, 0), clips(9, 1)
    real, generated = measured(nets, a), measured(nets, b)
    table = class_table(nets, real, generated, ["a", "b", "c", "none"], 2)
    assert table["class"].tolist() == ["a", "b", "c"]
    assert table["real"].tolist() == [4, 4, 4] and table["generated"].tolist() == [3, 3, 3]
    of_b = frechet_distance(real.logits[1::3], generated.logits[1::3])
    assert table["fvd"].tolist()[1] == pytest.approx(of_b, rel=1e-9)
    assert table["inception_score"].tolist()[2] == pytest.approx(inception_score(generated.logits[2::3])[0])
    of_c = real.logits[2::3], generated.logits[2::3]
    assert table["kvd"].tolist()[2] == pytest.approx(kernel_distance(*of_c))
    assert table["recall"].tolist()[2] == share_inside(*of_c) != table["precision"].tolist()[2]
    assert table["precision"].tolist()[2] == share_inside(*of_c[::-1])
    empty = class_table(nets, real, generated, (), 2)
    assert len(empty) == 0 and list(empty.columns) == list(table.columns)


def of_features(x: torch.Tensor) -> Measured:
    """A set of these features, of no class."""
    return Measured(
        labels=torch.full((len(x),), -1), logits=x, pooled=x, pooled_k600=x[:, :0],
        spectra=torch.zeros(len(x), 0, 0), motion=x[:, :0],
    )  # fmt: skip


def curve(monkeypatch, measure, a: torch.Tensor, b: torch.Tensor) -> list[tuple[int, float, float]]:
    """(n, mean, deviation) of a measure of two sets; at its end, 3 and the deviation."""
    monkeypatch.setattr(tables, "biased_measures", lambda *_: {"m": (measure, a, b)})
    found = count_table(networks(), of_features(a), of_features(b), metrics={"m": 3.0}, splits=None, seed=0)
    return list(zip(found["n"], found["mean"], (found["high"] - found["low"]) / 4, strict=True))


def test_the_bars_of_the_curve_shrink_as_those_of_a_mean(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 2, generator=draw), torch.randn(400, 2, generator=draw) + 3
    points = curve(monkeypatch, lambda x, y: (y.mean() - x.mean()).item(), a, b)
    assert [n for n, _, _ in points] == [50, 100, 200, 400]
    assert points[-1][1] == 3 and all(abs(mean - 3) < 0.3 for _, mean, _ in points)
    # The deviation of a mean over n videos of 2 values, of both sides: sqrt(2 / (2 n)).
    for n, _, deviation in points:
        assert 0.3 * n**-0.5 < deviation < 2.5 * n**-0.5
    assert curve(monkeypatch, lambda x, y: float(len(x)), a[:2], b) == [(2, 3.0, 0.0)]


def test_the_line_ends_at_the_distance_of_infinitely_many_videos():
    """N(0, 1) and N(0, 1.1^2) in 40 dimensions are at 40 (1.1 - 1)^2; a finite sample is further."""
    nets, draw, d = FeatureNetworks(networks().k400), torch.Generator().manual_seed(0), 40

    def table(x: torch.Tensor, y: torch.Tensor) -> tuple[dict[str, float], pd.DataFrame]:
        sides = nets, of_features(x), of_features(y)
        found = {name: number(x, y) for name, (number, x, y) in biased_measures(*sides, None).items()}
        return found, count_table(*sides, metrics=found, splits=None, seed=0)

    sets = [(torch.randn(3000, d, generator=draw), torch.randn(3000, d, generator=draw) * 1.1) for _ in range(4)]
    (a, b), tables = sets[0], [table(*pair) for pair in sets]
    assert min(found["fvd"] for found, _ in tables) > 1.3 * 0.4
    ends, counts = [at_infinity(counts) for _, counts in tables], tables[0][1]
    assert set(ends[0]) == {"fvd_infinity", "fid_k400_infinity"}
    assert np.mean([end["fvd_infinity"] for end in ends]) == pytest.approx(0.4, rel=0.05)
    rows = counts[counts["metric"] == "fvd"]
    assert (rows["infinity"] + rows["slope"] / rows["n"]).tolist() == pytest.approx(rows["mean"].tolist(), rel=0.05)
    # Two points above 40 videos are too few, and a side with more videos takes the last one away.
    assert at_infinity(table(a[:150], b[:150])[1]) == {} and at_infinity(table(a[:320], b[:2000])[1]) == {}
    assert set(at_infinity(table(a[:400], b[:2000])[1])) == {"fvd_infinity", "fid_k400_infinity"}


@pytest.mark.parametrize(("real_videos", "generated_videos"), [(40, 40), (40, 31), (9, 40), (16, 16), (17, 18)])
def test_the_curve_ends_at_the_reported_metrics(real_videos, generated_videos):
    nets = networks()
    real, generated = measured(nets, clips(real_videos, 0)), measured(nets, clips(generated_videos, 1))
    found = scores(nets, real, generated, 3)
    counts = count_table(nets, real, generated, metrics=found, splits=3, seed=0)
    for name, rows in counts.groupby("metric"):
        assert rows["n"].is_monotonic_increasing and rows["n"].is_unique
        last = rows.iloc[-1]
        assert last["n"] == min(real_videos, generated_videos)
        assert last["mean"] == pytest.approx(found[str(name)], rel=1e-12)
        assert last["low"] < last["mean"] < last["high"]


def test_tables_have_their_columns():
    nets = networks(random=True)
    real, generated = measured(nets, clips(8, 0)), measured(nets, clips(8, 1))
    assert list(psd_table(real, generated, (1,), 2).columns) == [
        "frame", "cycles", "real_mean", "real_deviation", "generated_mean", "generated_deviation",
    ]  # fmt: skip
    motion = motion_table(real, generated)
    assert list(motion.columns) == ["step", "real_mean", "real_deviation", "generated_mean", "generated_deviation"]
    assert motion["step"].tolist() == [1]
    steps = np.abs(np.diff(clips(8, 0).numpy().astype(float), axis=1)).mean(axis=(2, 3, 4))
    assert motion["real_mean"].tolist() == pytest.approx(steps.mean(axis=0))
    assert motion["real_deviation"].tolist() == pytest.approx(steps.std(axis=0, ddof=1))
    counts = count_table(nets, real, generated, metrics=scores(nets, real, generated, 1), splits=1, seed=0)
    assert list(counts.columns) == ["metric", "n", "mean", "low", "high", "infinity", "slope"]
    low, mean, high = (counts[name].to_numpy() for name in ("low", "mean", "high"))
    assert np.all(low < mean) and np.all(mean < high)
    still = measured(nets, clips(4, 0, frames=1))
    assert len(motion_table(still, still)) == 0 and motion_scores(still, still) == {}


def test_what_was_measured_is_taken_while_nothing_changed(tmp_path, caplog, monkeypatch):
    found, times = measured(networks(), clips(8, 0)), []

    def again(key: dict) -> Measured:
        return kept(tmp_path, key, ALONE, lambda: times.append(key) or found)

    first = again({"pyramid": "a", "frames": 2})
    assert first is found and len(times) == 1
    taken = again({"frames": 2, "pyramid": "a"})
    assert len(times) == 1 and all(torch.equal(value, vars(found)[name]) for name, value in vars(taken).items())
    assert again({"pyramid": "b", "frames": 2}) is found and len(times) == 2
    logits = found.logits.numpy().tobytes()
    flipped = bytes([logits[0] ^ 1]) + logits[1:]
    for damage in (lambda content: content[:-5], lambda content: content.replace(logits, flipped)):
        for file in tmp_path.iterdir():
            file.write_bytes(damage(file.read_bytes()))
        caplog.clear()
        assert again({"pyramid": "a", "frames": 2}) is found and "damaged" in caplog.text
    assert len(times) == 4
    monkeypatch.setattr(cache, "code_hash", lambda module: f"another of {module}")
    assert again({"pyramid": "a", "frames": 2}) is found and len(times) == 5


@dataclass
class _Shared:
    videos: torch.Tensor
    file: str
    out: str


def _worker(rank: int, count: int, shared: _Shared) -> None:
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{shared.file}", rank=rank, world_size=count)
    nets, videos = networks(), shared.videos
    labels = torch.arange(len(videos) - 6)  # those that have features
    mine = measure(nets, iter(videos[rank::count].movedim(2, -1).numpy()), (1, 2), len(labels[rank::count]))
    found = mine.gather(labels, len(videos), Workers(rank=rank, count=count))
    torch.save(vars(found), f"{shared.out}-{count}-{rank}.pt")
    if count > 1:
        dist.destroy_process_group()


def test_two_workers_measure_what_one_does(tmp_path):
    shared = _Shared(clips(21, 5), str(tmp_path / "meet"), str(tmp_path / "found"))
    _worker(0, 1, shared)
    spawn(_worker, args=(2, shared), nprocs=2)
    alone = torch.load(f"{shared.out}-1-0.pt")
    for rank in range(2):
        together = torch.load(f"{shared.out}-2-{rank}.pt")
        assert set(together) == set(alone)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    lengths = {name: len(value) for name, value in alone.items()}
    assert lengths == {"labels": 15, "logits": 15, "pooled": 15, "pooled_k600": 15, "spectra": 21, "motion": 21}
    assert Path(f"{shared.out}-2-1.pt").is_file()

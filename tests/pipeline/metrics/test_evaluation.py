"""What is kept of sets, the numbers and tables they give, and that two workers measure what one does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from models.i3d import I3D
from pipeline.metrics import cache, tables
from pipeline.metrics import measured as evaluation
from pipeline.metrics.cache import StatisticsCache
from pipeline.metrics.features import FeatureNetwork, extract
from pipeline.metrics.frechet import Moments, frechet_distance
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.measured import Batch, FeatureNetworks, Measured, motion_scores, scores
from pipeline.metrics.tables import by_number, class_table, count_table, motion_table, psd_table
from pipeline.workers import ALONE, Workers
from tests.pipeline.metrics.tiny import tiny_network


def networks(*, random: bool = False) -> FeatureNetworks:
    digest = None if random else "ab" * 32
    return FeatureNetworks(tiny_network(0, digest), tiny_network(1, digest))


def clips(n: int, seed: int, frames: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, frames, 3, 8, 8), dtype=torch.uint8, generator=draw)


def measured(nets: FeatureNetworks, videos: torch.Tensor, part: int = 3, **given) -> Measured:
    found = Measured(nets, videos=len(videos), frames=videos.shape[1], size=8, psd_frames=(1,), psd_sets=2, **given)
    batches = ((first, videos[first : first + part]) for first in range(0, len(videos), part))
    found.measure((Batch(first=f, clips=v, labels=torch.arange(f, f + len(v)) % 3) for f, v in batches))
    return found


def test_one_pass_measures_what_features_held_whole_give():
    nets = networks()
    a, b = clips(12, 0), clips(10, 1)
    real, generated = measured(nets, a), measured(nets, b, part=7, splits=2)
    found = scores(real, generated, labelled=True)
    assert set(found) == {"fvd", "fid", "inception_score", "inception_score_deviation"}

    def features(network, videos):
        found = list(extract(network, videos))
        return torch.cat([f.logits for f in found]), torch.cat([f.pooled for f in found])

    def distance(x, y):
        ms = Moments(x.shape[1]), Moments(x.shape[1])
        ms[0].update(x)
        ms[1].update(y)
        return frechet_distance(*ms)

    logits = features(nets.logits, a)[0], features(nets.logits, b)[0]
    pooled = features(nets.pooled, a)[1], features(nets.pooled, b)[1]
    assert found["fvd"] == pytest.approx(distance(*logits), rel=1e-5)
    assert found["fid"] == pytest.approx(distance(*pooled), rel=1e-5)
    assert (found["inception_score"], found["inception_score_deviation"]) == pytest.approx(
        inception_score(logits[1], 2)
    )
    torch.testing.assert_close(real.logits, logits[0])
    assert real.labels.tolist() == [i % 3 for i in range(12)]


def test_the_same_set_on_both_sides_is_at_no_distance():
    nets = networks()
    found = measured(nets, clips(8, 0))
    assert max(scores(found, found, labelled=False).values()) < 1e-6
    assert motion_scores(found, found)["motion_real"] == motion_scores(found, found)["motion_generated"] > 0


def test_one_video_is_too_few():
    nets = networks()
    with pytest.raises(ValueError, match="at least 2 videos"):
        one = Measured(nets, videos=1, frames=2, size=8)
        one.measure([Batch(first=0, clips=clips(1, 0), labels=torch.zeros(1, dtype=torch.int64))])
        scores(one, one, labelled=False)


def test_a_network_that_says_nan_is_refused():
    nets = networks()
    with torch.no_grad():
        nets.logits.network.weight.fill_(float("nan"))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="not finite"):
        measured(nets, clips(2, 0))


def test_memory_does_not_grow_with_the_number_of_videos(monkeypatch):
    monkeypatch.setattr(evaluation, "KEPT_CLIPS", 4)
    nets = networks()
    few, many = measured(nets, clips(4, 0)), measured(nets, clips(30, 0))
    assert {n: t.shape for n, t in few.state_dict().items()} == {n: t.shape for n, t in many.state_dict().items()}
    assert many.count == 30 and torch.equal(few.logits, many.logits)
    assert not [name for name, value in vars(many).items() if isinstance(value, list)]


def test_random_weights_never_give_famous_names():
    with torch.device("meta"):
        some = I3D(5)
    unknown, known = FeatureNetwork(some, "random, seed 0", None), FeatureNetwork(some, "k.pt", "ab" * 32)
    real, generated = measured(networks(), clips(4, 0)), measured(networks(), clips(4, 1))
    for nets, names in (
        (FeatureNetworks(unknown, unknown), {"random_i3d_frechet_logits", "random_i3d_frechet_pooled"}),
        (
            FeatureNetworks(known, unknown),
            {"fvd", "random_i3d_frechet_pooled", "inception_score", "inception_score_deviation"},
        ),
        (FeatureNetworks(unknown, known), {"random_i3d_frechet_logits", "fid"}),
    ):
        real.networks = generated.networks = nets
        assert set(scores(real, generated, labelled=True)) == names
        assert set(count_table(real, generated, labelled=True, seed=0)["metric"]) == names - {
            "inception_score_deviation"
        }
        found = class_table(real, generated, ["a"])
        assert set(found.columns) - {"class", "real", "generated"} == names - {"inception_score_deviation"}
    real.networks = FeatureNetworks(known, known)
    assert set(scores(real, generated, labelled=False)) == {"fvd", "fid"}


def test_classes_are_compared_each_with_itself():
    nets = networks()
    a, b = clips(12, 0), clips(9, 1)
    real, generated = measured(nets, a), measured(nets, b)
    table = class_table(real, generated, ["a", "b", "c", "none"])
    assert table["class"].tolist() == ["a", "b", "c"]
    assert table["real"].tolist() == [4, 4, 4] and table["generated"].tolist() == [3, 3, 3]
    moments = [Moments(5), Moments(5)]
    for m, side in zip(moments, (real, generated), strict=True):
        m.update(side.logits[1::3])
    assert table["fvd"].tolist()[1] == pytest.approx(frechet_distance(*moments), rel=1e-9)
    assert table["inception_score"].tolist()[2] == pytest.approx(inception_score(generated.logits[2::3])[0])
    empty = class_table(real, generated, ())
    assert len(empty) == 0 and list(empty.columns) == list(table.columns)


def test_the_curve_ends_at_the_whole_set_and_its_bars_shrink():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 2, generator=draw), torch.randn(400, 2, generator=draw) + 3
    points = by_number(lambda x, y: (y.mean() - x.mean()).item(), a, b, seed=0)
    assert [n for n, _, _ in points] == [50, 100, 200, 400]
    assert points[-1][1] == pytest.approx((b.mean() - a.mean()).item())
    assert all(abs(mean - 3) < 0.3 for _, mean, _ in points)
    # The deviation of a mean over n videos of 2 values, of both sides: sqrt(2 / (2 n)).
    for n, _, deviation in points:
        assert 0.3 * n**-0.5 < deviation < 2.5 * n**-0.5
    assert by_number(lambda x, y: float(len(x)), a[:2], b, seed=0) == [(2, 2.0, 0.0)]


def test_the_curve_looks_at_a_bounded_number_of_videos(monkeypatch):
    monkeypatch.setattr(tables, "COUNTED_VIDEOS", 16)
    assert [n for n, *_ in by_number(lambda x, y: 0.0, torch.zeros(99, 1), torch.zeros(99, 1), seed=0)] == [2, 4, 8, 16]


@pytest.mark.parametrize(("real_videos", "generated_videos"), [(40, 40), (40, 31), (9, 40), (16, 16), (17, 18)])
def test_the_curve_ends_at_the_reported_metrics(monkeypatch, real_videos, generated_videos):
    monkeypatch.setattr(evaluation, "KEPT_CLIPS", 20)
    monkeypatch.setattr(tables, "COUNTED_VIDEOS", 16)
    nets = networks()
    real, generated = measured(nets, clips(real_videos, 0)), measured(nets, clips(generated_videos, 1), splits=3)
    counts = count_table(real, generated, labelled=True, seed=0)
    found = scores(real, generated, labelled=True)
    for name, rows in counts.groupby("metric"):
        assert rows["n"].is_monotonic_increasing and rows["n"].is_unique
        last = rows.iloc[-1]
        assert last["n"] == min(real_videos, generated_videos)
        assert last["mean"] == pytest.approx(found[str(name)], rel=1e-12)
        assert last["low"] < last["mean"] < last["high"]


def test_a_table_of_a_part_of_the_clips_says_so_once(monkeypatch, caplog):
    nets = networks()
    whole = measured(nets, clips(9, 0))
    class_table(whole, whole, ["a", "b", "c"])
    assert not caplog.records
    monkeypatch.setattr(evaluation, "KEPT_CLIPS", 6)
    part = measured(nets, clips(9, 0))
    table = class_table(part, whole, ["a", "b", "c"])
    assert table["real"].tolist() == [2, 2, 2] and table["generated"].tolist() == [3, 3, 3]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the table by class is of the first 9 clips of a side alone"
    ]


def test_tables_have_their_columns():
    nets = networks(random=True)
    real, generated = measured(nets, clips(8, 0)), measured(nets, clips(8, 1))
    assert list(psd_table(real, generated).columns) == [
        "frame", "cycles", "real_mean", "real_deviation", "generated_mean", "generated_deviation",
    ]  # fmt: skip
    motion = motion_table(real, generated)
    assert list(motion.columns) == ["step", "real_mean", "real_deviation", "generated_mean", "generated_deviation"]
    assert motion["step"].tolist() == [1]
    counts = count_table(real, generated, labelled=True, seed=0)
    assert list(counts.columns) == ["metric", "n", "mean", "low", "high"]
    low, mean, high = (counts[name].to_numpy() for name in ("low", "mean", "high"))
    assert np.all(low < mean) and np.all(mean < high)
    still = measured(nets, clips(4, 0, frames=1))
    assert len(motion_table(still, still)) == 0 and motion_scores(still, still) == {}


def test_kept_statistics_are_those_measured(tmp_path, caplog):
    nets = networks()
    kept, key = StatisticsCache(tmp_path, ALONE), {"pyramid": "a", "frames": 2}
    found, empty = measured(nets, clips(8, 0)), measured(nets, clips(8, 0)[:0])
    empty = Measured(nets, videos=8, frames=2, size=8, psd_frames=(1,), psd_sets=2)
    assert not kept.load(key, empty)
    kept.save(key, found)
    assert kept.load(key, empty)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in empty.state_dict().items())
    assert not kept.load({"pyramid": "b", "frames": 2}, empty)
    file = kept.file(key)
    file.write_bytes(file.read_bytes()[:-5])
    assert not kept.load(key, empty) and "damaged" in caplog.text


def test_statistics_are_kept_under_the_code_that_measured_them(tmp_path, monkeypatch):
    kept, key = StatisticsCache(tmp_path, ALONE), {"pyramid": "a"}
    before = kept.file(key)
    assert kept.file(key) == before
    monkeypatch.setattr(cache, "code_hash", lambda module: f"another of {module}")
    assert kept.file(key) != before


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
    found = Measured(nets, videos=len(videos), frames=2, size=8, splits=3, psd_frames=(1, 2), psd_sets=2)
    firsts = range(rank * 4, len(videos), count * 4)
    found.measure(
        Batch(first=f, clips=videos[f : f + 4], labels=torch.arange(f, min(f + 4, len(videos)))) for f in firsts
    )
    found.gather(Workers(rank=rank, count=count))
    torch.save(found.state_dict(), f"{shared.out}-{count}-{rank}.pt")
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
    assert int(alone["logits_moments._n"]) == 21 and np.ptp(alone["labels"].numpy()) == 20
    assert Path(f"{shared.out}-2-1.pt").is_file()

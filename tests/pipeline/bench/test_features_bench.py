"""The bench of features runs every way on the same clips and says what it measured."""

from pipeline.bench import features
from pipeline.bench.features import BARE, OURS, ROUNDED, bench_features


def test_every_way_is_measured(monkeypatch):
    measured, measure = [], features.measure
    monkeypatch.setattr(features, "measure", lambda *given: measured.append(measure(*given)) or measured[-1])
    found = bench_features(clips=1, frames=9, size=16, rounds=1)
    assert set(found["seconds_a_clip"]) == {BARE, OURS, ROUNDED}
    assert found["to_network_alone"][BARE] == 1
    assert len(measured) == 4 and {len(one.logits) for one in measured} == {1}  # two ways, warmed up once
    assert measured[0].motion.shape == (1, 8) and measured[0].spectra.shape == (1, 2, 9)
    assert all(0 < found[f"bfloat16_error_of_{name}"] < 0.2 for name in ("pooled", "logits"))

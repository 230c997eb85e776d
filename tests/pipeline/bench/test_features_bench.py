"""The bench of features runs every way on the same clips and says what it measured."""

from pipeline.bench.features import BARE, OURS, ROUNDED, bench_features
from pipeline.metrics.measured import Measured


def test_every_way_is_measured(monkeypatch):
    measured, measure = [], Measured.measure
    monkeypatch.setattr(Measured, "measure", lambda self, *given: measured.append(self) or measure(self, *given))
    found = bench_features(clips=1, frames=9, size=16, rounds=1)
    assert set(found["seconds_a_clip"]) == {BARE, OURS, ROUNDED}
    assert found["to_network_alone"][BARE] == 1
    assert len(measured) == 4 and {one.count for one in measured} == {1}  # two ways, warmed up once
    assert len(measured[0].motion.by_step()[0]) == 8 and len(measured[0].spectra.over_sets()[0]) == 2
    assert all(0 < found[f"bfloat16_error_of_{name}"] < 0.2 for name in ("pooled", "logits"))

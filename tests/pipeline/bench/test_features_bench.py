"""The bench of features runs every way on the same clips and says what it measured."""

import torch

from models.i3d import I3D
from pipeline.bench import features
from pipeline.bench.features import BARE, OURS, ROUNDED, bench_features
from pipeline.metrics.features import FeatureNetwork


class Small(I3D):
    """In the place of the network, which takes a minute in bfloat16 on a processor without kernels for it."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.map = torch.nn.Linear(3 * 4**3, 1424)

    def features(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.map(torch.nn.functional.adaptive_avg_pool3d(video.movedim(1, 2), 4).flatten(1))
        return outputs[:, :1024], outputs[:, 1024:]


def test_every_way_is_measured(monkeypatch):
    measured, measure = [], features.measure
    network = FeatureNetwork(Small(), "random, seed 0", None)
    monkeypatch.setattr(features, "random_i3d", lambda *_: network)
    monkeypatch.setattr(features, "measure", lambda *given: measured.append(measure(*given)) or measured[-1])
    found = bench_features(clips=1, frames=9, size=16, rounds=1)
    assert set(found["seconds_a_clip"]) == {BARE, OURS, ROUNDED}
    assert found["to_network_alone"][BARE] == 1
    assert len(measured) == 4 and {len(one.logits) for one in measured} == {1}  # two ways, warmed up once
    assert measured[0].motion.shape == (1, 8) and measured[0].spectra.shape == (1, 2, 9)
    assert all(0 < found[f"bfloat16_error_of_{name}"] < 0.2 for name in ("pooled", "logits"))

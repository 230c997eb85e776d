import json

import pytest
import torch

from models.unroll import recalibrate, use_statistics
from pipeline.errors import UserError
from pipeline.generation import artifact
from tests.models.level_configs import SECOND
from tests.pipeline.training.tiny import batches, dummy, networks


@pytest.fixture
def published(tmp_path):
    generator = networks(2).generator
    clips = batches(2).fake_clips(0, range(4))
    inputs = dummy(clips)
    statistics = {
        split: (sigma, recalibrate(generator, [dummy(clips, sigma)]))
        for split, sigma in (("samples", 1.0), ("figures", 0.5))
    }
    artifact.write(tmp_path, generator, statistics, [{"step": 1, "loss": 0.5}], {"classes": ["a", "b", "c"]})
    return tmp_path, generator, statistics, inputs


def test_what_is_published_generates_the_same(published):
    folder, generator, statistics, inputs = published
    for split, (sigma, values) in statistics.items():
        read = artifact.read(folder, split, sigma)
        assert read.config == SECOND
        assert not read.training
        use_statistics(generator, values)
        assert torch.equal(read(*inputs), generator.eval()(*inputs))
    assert (folder / "history.csv").read_text() == "step,loss\n1,0.5\n"


def test_the_same_generator_gives_the_same_bytes(published, tmp_path):
    folder, generator, statistics, _ = published
    artifact.write(tmp_path / "again", generator, statistics, [], {})
    assert artifact.digest(tmp_path / "again") == artifact.digest(folder)


def test_files_that_do_not_belong_together_are_refused(published):
    folder = published[0]
    with pytest.raises(UserError, match=r"recalibrated for sigma 0\.5, not 0\.7"):
        artifact.read(folder, "figures", 0.7)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["generator"]["channels"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        artifact.read(folder, "samples", 1.0)
    (folder / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no trained level here"):
        artifact.read(folder, "samples", 1.0)
    with pytest.raises(UserError, match="no trained level here"):
        artifact.read(folder / "elsewhere", "samples", 1.0)

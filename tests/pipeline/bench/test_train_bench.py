"""The plain networks are the same functions as ours, and the bench measures both."""

import pytest
import torch

from models.config import LevelConfig
from models.losses import discriminator_loss, generator_loss
from pipeline.bench.clips import random_clips
from pipeline.bench.plain import PlainTraining, copy_weights
from pipeline.bench.train import OURS, PLAIN, PRODUCT, bench_train
from pipeline.params import load_params
from pipeline.training.step import Networks
from tests.models.level_configs import FIRST, SECOND
from tests.pipeline.training.tiny import ALONE, TRAINING
from tests.stages.fake_project import make_project


@pytest.mark.parametrize("config", [FIRST, SECOND], ids=["level 1", "level 2"])
def test_the_plain_networks_are_ours(config: LevelConfig):
    ours = Networks(config, TRAINING, seed=3, workers=ALONE)
    plain = PlainTraining(config, lr_generator=1e-3, lr_discriminator=1e-3, betas=(0.0, 0.999))
    for mine, other in ((ours.generator, plain.generator), (ours.discriminators, plain.discriminators)):
        copy_weights(mine, other)
        other.eval()  # no power iteration in the forward pass
    window = (config.condition or config.view).frames
    real, fake = (random_clips(config, window, 3, torch.device("cpu"), real=real) for real in (True, False))
    video = plain.generator(fake.noise, fake.labels, fake.condition)
    assert torch.allclose(video, ours.generator(fake.noise, fake.labels, fake.condition), atol=1e-5)
    scores = {
        name: ours.discriminators(
            clips.video if name == "real" else video, clips.condition, clips.labels, clips.frames, clips.rounding
        )
        for name, clips in (("real", real), ("fake", fake))
    }
    on_real, on_fake = plain.discriminators(real.video, real), plain.discriminators(video, fake)
    assert torch.allclose(on_real, torch.cat(list(scores["real"].values()), 1), atol=1e-4)
    loss = torch.relu(1 - on_real).mean() + torch.relu(1 + on_fake).mean()
    assert torch.allclose(loss, discriminator_loss(scores["real"], scores["fake"]), atol=1e-4)
    assert torch.allclose(-on_fake.mean(), generator_loss(scores["fake"]), atol=1e-4)
    before = {name: p.detach().clone() for name, p in plain.generator.named_parameters()}
    assert plain.discriminator_update(real, fake) == pytest.approx(
        float(ours.discriminator_update(real, fake)["loss_discriminator"]), abs=1e-4
    )
    plain.generator_update(fake)
    assert all(
        not torch.equal(before[name], p)
        for name, p in plain.generator.named_parameters()
        if p.grad is not None and p.grad.any()
    )


def test_every_way_is_measured(tmp_path):
    found = bench_train(load_params(make_project(tmp_path).params), 2, batch=2, rounds=1)
    assert set(found["seconds"]) == {OURS, PLAIN, PRODUCT} and min(found["seconds"].values()) > 0
    assert found["times_as_fast_as_plain"][PLAIN] == found["of_a_matrix_product"][PRODUCT] == 1
    assert found["times_as_fast_as_plain"][OURS] == pytest.approx(found["seconds"][PLAIN] / found["seconds"][OURS])

from dataclasses import replace

import pytest
import torch

from models.layers import SpectralNorm
from pipeline.errors import UserError
from pipeline.training import watch
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, networks, train


def test_a_row_tells_losses_by_discriminator_gradients_and_sigmas(tmp_path):
    rows = {}
    trained = networks(2)
    train(trained, batches(2), TRAINING, ALONE, tmp_path, lambda row, step: rows.update({step: row}))
    row = rows[6]
    hinges = [row[f"hinge_{name}"] for name in ("spatial", "temporal", "matching")]
    assert all(hinge > 0 for hinge in hinges)
    assert min(hinges) < row["loss_discriminator"] < max(hinges)  # a mean over all outputs
    assert row["gradient_norm_generator"] > 0 and row["gradient_norm_discriminator"] > 0
    first = torch.linalg.matrix_norm(trained.generator.last_conv.weight.flatten(1), 2).item()
    assert row["sigma_generator_last"] == pytest.approx(first, rel=0.1)
    assert {f"sigma_discriminator_{place}" for place in ("first", "middle", "last")} < row.keys()
    assert row["frames_per_second"] > 0 and row["memory_gib"] > 0.05


def test_sigma_is_of_the_weight_before_it_is_divided():
    made = networks(1)
    for layer in (m for m in made.discriminators.modules() if isinstance(m, SpectralNorm)):
        layer.weight.data.mul_(3)
    found = watch.sigmas(made)
    for place in ("first", "middle", "last"):  # orthogonal at first: every singular value is 1
        assert found[f"sigma_discriminator_{place}"] == pytest.approx(3, abs=1e-4)
        assert found[f"sigma_generator_{place}"] == pytest.approx(1, abs=1e-4)


def row(step, loss):
    return {"step": step, "loss_discriminator": loss, "loss_generator": 0.5}


@pytest.mark.parametrize(
    ("history", "over"),
    [
        ([row(step, 1e-4) for step in range(100, 600, 100)], True),
        ([row(step, 1e-4) for step in range(100, 500, 100)], False),  # not for long
        ([*(row(step, 1e-4) for step in range(100, 500, 100)), row(500, 0.002)], False),
        ([row(100, 2.0), *(row(step, 0.0) for step in range(200, 700, 100))], True),
        ([*(row(step, 0.0) for step in range(100, 500, 100)), {"step": 450, "told": 3.0}, row(500, 0.0)], True),
        ([row(1000, 0.0)], True),  # rows may be further apart
    ],
)
def test_a_discriminator_that_nothing_deceives_ends_the_run(history, over):
    if not over:
        watch.check(history, 2)
        return
    with pytest.raises(UserError, match=r"level 2: D's loss was below 0\.001 .* lower levels\.2\.training\.lr_discr"):
        watch.check(history, 2)


def test_training_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LONG_ITERATIONS", 3)
    monkeypatch.setattr(watch, "ZERO_LOSS", 100.0)
    with pytest.raises(UserError, match="for 3 iterations up to 3"):
        train(networks(1), batches(1), replace(TRAINING, log_every=1), ALONE, tmp_path)

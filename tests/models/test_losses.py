import pytest
import torch

from models.losses import discriminator_loss, generator_loss

REAL = {"spatial": torch.tensor([[2.0, 0.5]]), "temporal": torch.tensor([[-1.0, 1.0, 0.0]])}
FAKE = {"spatial": torch.tensor([[-2.0, 0.5]]), "temporal": torch.tensor([[-1.0, 3.0, 0.0]])}


def test_hinge_over_all_outputs_alike():
    # real: max(0, 1 - o) = 0, .5, 2, 0, 1; fake: max(0, 1 + o) = 0, 1.5, 0, 4, 1
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx(3.5 / 5 + 6.5 / 5)


def test_the_generators_loss_is_the_mean_output():
    assert generator_loss(FAKE).item() == pytest.approx(-0.5 / 5)

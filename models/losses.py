"""The hinge losses (App. B.1): over all outputs of all discriminators, averaged over samples and outputs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.discriminator import Outputs


def discriminator_loss(real: Outputs, fake: Outputs) -> Float[Tensor, ""]:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
    return F.relu(1 - _joined(real)).mean() + F.relu(1 + _joined(fake)).mean()


def generator_loss(fake: Outputs) -> Float[Tensor, ""]:
    """-E[D(G(z))]."""
    return -_joined(fake).mean()


def _joined(outputs: Outputs) -> Float[Tensor, "N _"]:
    return torch.cat(list(outputs.values()), dim=1)

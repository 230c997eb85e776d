"""One update of a level's discriminators, and one of its generator: the same for every level (App. A, App. B)."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import LevelConfig
from models.discriminator import Discriminators, Outputs
from models.generator import Generator
from models.layers import power_iteration
from models.losses import discriminator_loss, generator_loss
from pipeline.params import TrainingParams
from pipeline.training.batches import Clips
from pipeline.training.distributed import Workers

Metrics = dict[str, Tensor]  # scalars of this worker, detached


class Networks:
    """G_l and D_l with their optimizers; over several workers their gradients are averaged.

    Initialised from `seed` alone, so that every worker begins with the same weights.
    """

    def __init__(
        self,
        config: LevelConfig,
        params: TrainingParams,
        *,
        seed: int,
        workers: Workers,
    ) -> None:
        torch.manual_seed((seed << 8) + config.level)
        self.generator = Generator(config).to(workers.device)
        self.discriminators = Discriminators(config).to(workers.device)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=params.lr_generator, betas=params.betas)
        self.optimizer_d = torch.optim.Adam(
            self.discriminators.parameters(), lr=params.lr_discriminator, betas=params.betas
        )
        self._synced_g = _synced(self.generator, workers)
        self._synced_d = _synced(self.discriminators, workers)

    def discriminator_update(self, real: Clips, fake: Clips) -> Metrics:
        """A step of D on real clips and on fresh fakes, in one pass over both."""
        with torch.no_grad():
            generated = self.generator(fake.noise, fake.labels, fake.condition)
        outputs: Outputs = self._synced_d(
            _joined(real.video, generated),
            _joined(real.condition, fake.condition),
            _joined(real.labels, fake.labels),
            _joined(real.frames, fake.frames),
            _joined(real.rounding, fake.rounding),
        )
        on_real = {name: scores[: len(real.frames)] for name, scores in outputs.items()}
        on_fake = {name: scores[len(real.frames) :] for name, scores in outputs.items()}
        loss = discriminator_loss(on_real, on_fake)
        self.optimizer_d.zero_grad()
        loss.backward()
        norm = gradient_norm(self.discriminators)
        self.optimizer_d.step()
        power_iteration(self.discriminators)
        seen = {**_hinges(on_real, on_fake), "gradient_norm_discriminator": norm, **_accuracies(on_real, on_fake)}
        return {"loss_discriminator": loss.detach(), **seen}

    def generator_update(self, fake: Clips) -> Metrics:
        """A step of G against D as it is."""
        generated = self._synced_g(fake.noise, fake.labels, fake.condition)
        with _frozen(self.discriminators):
            outputs = self.discriminators(generated, fake.condition, fake.labels, fake.frames, fake.rounding)
            loss = generator_loss(outputs)
            self.optimizer_g.zero_grad()
            loss.backward()
        norm = gradient_norm(self.generator)
        self.optimizer_g.step()
        power_iteration(self.generator)
        return {"loss_generator": loss.detach(), "gradient_norm_generator": norm}


def _synced(network: nn.Module, workers: Workers) -> nn.Module:
    if workers.count == 1:
        return network
    # The buffers are singular vectors, which move alike everywhere: none is sent. torch 2.13 renames the option.
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    options: Any = {next(name for name in names if name in known): False}
    return DistributedDataParallel(network, **options)


def _joined(real: Tensor | None, fake: Tensor | None) -> Tensor | None:
    return None if real is None or fake is None else torch.cat((real, fake))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def gradient_norm(network: nn.Module) -> Tensor:
    """The length of all of a network's gradients together, before the optimizer's step."""
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


@torch.no_grad()
def _hinges(real: Outputs, fake: Outputs) -> Metrics:
    """The loss of each discriminator alone, a mean over its own outputs."""
    return {f"hinge_{name}": discriminator_loss({name: real[name]}, {name: fake[name]}) for name in real}


def _accuracies(real: Outputs, fake: Outputs) -> Metrics:
    """How often each discriminator is right, on real clips and on fakes."""
    right = {f"accuracy_real_{name}": scores.detach() > 0 for name, scores in real.items()}
    right |= {f"accuracy_fake_{name}": scores.detach() < 0 for name, scores in fake.items()}
    return {name: hits.float().mean() for name, hits in right.items()}

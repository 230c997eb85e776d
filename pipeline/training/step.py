"""One update of a level's discriminators, and one of its generator: the same for every level (App. A, App. B)."""

import os
import shlex
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.config import LevelConfig
from models.discriminator import Discriminators, Outputs
from models.generator import Generator
from models.layers import channels_last, power_iteration
from models.losses import discriminator_loss, generator_loss
from pipeline.errors import UserError
from pipeline.training.clips import Clips
from pipeline.workers import Workers

if TYPE_CHECKING:  # their library is not at hand where a GPU alone is looked at (pipeline/bench/gpu.py)
    from pipeline.params import TrainingParams

Metrics = dict[str, Tensor]  # scalars of this worker, detached


class Networks:
    """G_l and D_l with their optimizers; over several workers their gradients are averaged.

    Initialised from `seed` alone, rank 0's weights on every worker. The switches of `params` (precision, compile,
    channels_last, recompute, accumulate, fused) change how an update is computed, not what.

    Raises UserError where the batch cannot be shared out, or a switch cannot be had here.
    """

    def __init__(
        self,
        config: LevelConfig,
        params: "TrainingParams",
        *,
        seed: int,
        workers: Workers,
    ) -> None:
        self._parts = params.accumulate  # in which D goes through a batch
        if (share := len(workers.positions(params.batch))) % self._parts:
            raise UserError(
                f"levels.{config.level}.training.accumulate: {self._parts} parts do not divide a worker's share of the"
                f" batch, {share} clips"
            )
        torch.manual_seed((seed << 8) + config.level)
        self.generator = Generator(config).to(workers.device)
        self.discriminators = Discriminators(config).to(workers.device)
        self.generator.recompute = params.recompute
        if params.channels_last:
            channels_last(self.generator)
            channels_last(self.discriminators)
        self.optimizer_g = _adam(self.generator, params.lr_generator, params)
        self.optimizer_d = _adam(self.discriminators, params.lr_discriminator, params)
        for tensor in (*self.generator.state_dict().values(), *self.discriminators.state_dict().values()):
            tensor.copy_(workers.of_first(tensor))  # other kinds of processors initialise to other last digits
        self._half = params.precision == "bfloat16"
        # torch lets cuDNN take TF32 by itself: float32 means float32 here
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = params.precision == "tf32"
        self._device, self._workers = workers.device, workers
        self._g, self._d = self.generator, self.discriminators
        if params.compile:
            self._g, self._d = (_compiled(n, config.level) for n in (self.generator, self.discriminators))

    def discriminator_update(self, real: Clips, fake: Clips) -> Metrics:
        """A step of D on real clips and on fresh fakes, in one pass over both, or over parts of both."""
        real, fake = real.to(self._device), fake.to(self._device)
        with torch.no_grad(), self._autocast():
            generated = self._g(fake.noise, fake.labels, fake.condition)
        self.optimizer_d.zero_grad()
        of_parts: list[Metrics] = []
        for r, f in zip(real.chunk(self._parts), replace(fake, video=generated).chunk(self._parts), strict=True):
            outputs = self._scores(Clips.cat((r, f)))
            on_real = {name: scores[: len(r.frames)] for name, scores in outputs.items()}
            on_fake = {name: scores[len(r.frames) :] for name, scores in outputs.items()}
            loss = discriminator_loss(on_real, on_fake)
            (loss / self._parts).backward()  # equal parts of a mean
            of_parts.append({"loss_discriminator": loss.detach(), **_by_discriminator(on_real, on_fake)})
        return {**_mean(of_parts), "gradient_norm_discriminator": self._step(self.discriminators, self.optimizer_d)}

    def generator_update(self, fake: Clips) -> Metrics:
        """A step of G against D as it is. G goes through the batch at once: its batch norms need the whole."""
        fake = fake.to(self._device)
        with self._autocast():
            generated = self._g(fake.noise, fake.labels, fake.condition)
        seen = generated.detach().requires_grad_()  # where D's gradients gather, part by part
        of_parts: list[Metrics] = []
        self.discriminators.requires_grad_(False)
        for part in replace(fake, video=seen).chunk(self._parts):
            loss = generator_loss(self._scores(part))
            (loss / self._parts).backward()
            of_parts.append({"loss_generator": loss.detach()})
        self.discriminators.requires_grad_(True)
        self.optimizer_g.zero_grad()
        generated.backward(seen.grad)
        return {**_mean(of_parts), "gradient_norm_generator": self._step(self.generator, self.optimizer_g)}

    def _scores(self, clips: Clips) -> Outputs:
        with self._autocast():
            return self._d(clips.video, clips.condition, clips.labels, clips.frames, clips.rounding)

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """Move a network by its gradients, which are averaged over the workers: their length, all together.

        They go in one buffer, always of the same layout: so gloo's sums of three workers or more have the same order
        in every iteration, and an interrupted run ends with the same bytes.
        """
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if self._workers.count > 1:
            mean = self._workers.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        norm = nn.utils.get_total_norm(gradients)
        optimizer.step()
        power_iteration(network)
        return norm

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._half else nullcontext()


@torch.no_grad()
def follow(average: Generator, generator: Generator, decay: float, step: int) -> None:
    """Move a copy of G towards it after iteration `step`, from 1: an exponential moving average of its weights.

    PAPER: no average; off by default.

    Early on the memory is shorter, or the average would be of noise. Singular vectors are not averaged: those of G
    belong to other matrices, and a sigma taken with them would be too small. The average moves less in a step than G
    does, so that one power iteration a step of its own is enough for it as well.
    """
    averages, weights = ([p.detach() for p in network.parameters()] for network in (average, generator))
    get_ema_multi_avg_fn(min(decay, step / (step + 9)))(averages, weights, step)
    power_iteration(average)


def _adam(network: nn.Module, rate: float, params: "TrainingParams") -> torch.optim.Adam:
    # None, not False: torch then chooses by device what is not fused
    return torch.optim.Adam(network.parameters(), lr=rate, betas=params.betas, fused=params.fused or None)


def _compiled(network: Any, level: int) -> Any:
    """The network's forward, compiled when it is first called; the network itself stays as it is, with its names."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise UserError(
            f"levels.{level}.training.compile: torch.compile needs a C++ compiler, and there is no {compiler}: install"
            " one, name it in the environment variable CXX, or set compile to false"
        )
    return torch.compile(network, dynamic=False)  # a batch and its parts have few shapes: each gets code of its own


def _mean(of_parts: list[Metrics]) -> Metrics:
    return {name: torch.stack([metrics[name] for metrics in of_parts]).mean(0) for name in of_parts[0]}


@torch.no_grad()
def _by_discriminator(real: Outputs, fake: Outputs) -> Metrics:
    """The loss of each discriminator alone, a mean over its own outputs, and how often it is right on either side."""
    metrics = {}
    for name in real:
        metrics[f"hinge_{name}"] = discriminator_loss({name: real[name]}, {name: fake[name]})
        metrics[f"accuracy_real_{name}"] = (real[name] > 0).double().mean()
        metrics[f"accuracy_fake_{name}"] = (fake[name] < 0).double().mean()
    return metrics

"""One update of a level's discriminators, and one of its generator: the same for every level (App. A, App. B)."""

import inspect
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import LevelConfig
from models.discriminator import Discriminators, Outputs
from models.generator import Generator
from models.layers import channels_last, power_iteration
from models.losses import discriminator_loss, generator_loss
from pipeline.errors import UserError
from pipeline.params import TrainingParams
from pipeline.training.batches import Clips
from pipeline.workers import Workers

Metrics = dict[str, Tensor]  # scalars of this worker, detached


class Networks:
    """G_l and D_l with their optimizers; over several workers their gradients are averaged.

    Initialised from `seed` alone, so that every worker begins with the same weights. The switches of `params`
    (precision, compile, channels_last, recompute, accumulate, fused) change how an update is computed, not what.

    Raises UserError where the batch cannot be shared out, or a switch cannot be had here.
    """

    def __init__(
        self,
        config: LevelConfig,
        params: TrainingParams,
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
        self._half = params.precision == "bfloat16"
        self._device = workers.device
        self._run_g, self._run_d = self.generator, self.discriminators
        if params.compile:
            self._run_g, self._run_d = (_compiled(n, config.level) for n in (self.generator, self.discriminators))
        self._synced_g = _synced(self._run_g, workers)
        self._synced_d = _synced(self._run_d, workers)

    def discriminator_update(self, real: Clips, fake: Clips) -> Metrics:
        """A step of D on real clips and on fresh fakes, in one pass over both, or over parts of both."""
        real, fake = real.to(self._device), fake.to(self._device)
        with torch.no_grad(), self._autocast():
            generated = self._run_g(fake.noise, fake.labels, fake.condition)
        self.optimizer_d.zero_grad()
        parts = list(zip(real.chunk(self._parts), replace(fake, video=generated).chunk(self._parts), strict=True))
        on_real, on_fake = [], []
        for i, (r, f) in enumerate(parts):
            with _unsynced(self._synced_d) if i < len(parts) - 1 else nullcontext():
                outputs = self._scores(self._synced_d, Clips.cat((r, f)))
                on_real.append({name: scores[: len(r.frames)] for name, scores in outputs.items()})
                on_fake.append({name: scores[len(r.frames) :] for name, scores in outputs.items()})
                (discriminator_loss(on_real[-1], on_fake[-1]) / len(parts)).backward()  # equal parts of a mean
        norm = gradient_norm(self.discriminators)
        self.optimizer_d.step()
        power_iteration(self.discriminators)
        real_scores, fake_scores = _together(on_real), _together(on_fake)
        return {
            "loss_discriminator": discriminator_loss(real_scores, fake_scores),
            **_hinges(real_scores, fake_scores),
            "gradient_norm_discriminator": norm,
            **_accuracies(real_scores, fake_scores),
        }

    def generator_update(self, fake: Clips) -> Metrics:
        """A step of G against D as it is. G goes through the batch at once: its batch norms need the whole."""
        fake = fake.to(self._device)
        with self._autocast():
            generated = self._synced_g(fake.noise, fake.labels, fake.condition)
        seen = generated.detach().requires_grad_()  # where D's gradients gather, part by part
        outputs = []
        with _frozen(self.discriminators):
            for part in replace(fake, video=seen).chunk(self._parts):
                outputs.append(self._scores(self._run_d, part))
                (generator_loss(outputs[-1]) / self._parts).backward()
        self.optimizer_g.zero_grad()
        generated.backward(seen.grad)
        norm = gradient_norm(self.generator)
        self.optimizer_g.step()
        power_iteration(self.generator)
        return {"loss_generator": generator_loss(_together(outputs)), "gradient_norm_generator": norm}

    def _scores(self, discriminators: nn.Module, clips: Clips) -> Outputs:
        with self._autocast():
            return discriminators(clips.video, clips.condition, clips.labels, clips.frames, clips.rounding)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half)


def _adam(network: nn.Module, rate: float, params: TrainingParams) -> torch.optim.Adam:
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


def _synced(network: Any, workers: Workers) -> nn.Module:
    if workers.count == 1:
        return network
    # The buffers are singular vectors, which move alike everywhere: none is sent. torch 2.13 renames the option.
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    options: Any = {next(name for name in names if name in known): False}
    synced = DistributedDataParallel(network, **options)
    if workers.device.type == "cpu":
        synced.register_comm_hook(workers.count, _mean_by_rank)
    return synced


def _mean_by_rank(
    workers: int,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage] - DDP reads the annotation
) -> torch.futures.Future[Tensor]:
    """The mean of the workers' gradients, each value summed in the order of ranks.

    Gloo's own sum begins with another rank for every part of a buffer, and DDP arranges its buffers anew after the
    first backward pass: of three workers or more, an interrupted run would end with other bytes.
    """
    parts = [torch.empty_like(bucket.buffer()) for _ in range(workers)]
    sent: Any = dist.all_gather(parts, bucket.buffer(), async_op=True)
    return sent.get_future().then(lambda _: torch.stack(parts).sum(dim=0) / workers)


def _unsynced(network: nn.Module) -> AbstractContextManager[object]:
    """Gradients are added up here and not yet averaged over the workers."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def _together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of a batch's parts, detached."""
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}


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
    return {name: hits.double().mean() for name, hits in right.items()}

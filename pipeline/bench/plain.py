"""A level's networks as a PyTorch program has them that was written without a thought of speed.

What training's own step is measured beside: the same functions of the same weights, by torch's modules, a loop over
time, one operation after the other, real and fake clips by themselves.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.config import LevelConfig
from models.hierarchy import f_s
from models.layers import widened
from pipeline.training.clips import Clips


def conv(inputs: int, outputs: int, kernel: Any = 3, *, dims: int = 2, bias: bool = False) -> nn.Module:
    return spectral_norm((nn.Conv2d if dims == 2 else nn.Conv3d)(inputs, outputs, kernel, padding="same", bias=bias))


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    return spectral_norm(nn.Linear(inputs, outputs, bias=bias))


class Norm(nn.Module):
    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain, self.bias = linear(condition, channels, bias=False), linear(condition, channels, bias=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        steps = [F.batch_norm(x[:, t], None, None, training=True) for t in range(x.shape[1])]
        gain, bias = self.gain(z)[:, None, :, None, None], self.bias(z)[:, None, :, None, None]
        return (1 + gain) * torch.stack(steps, dim=1) + bias


class GRU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.update, self.reset, self.candidate = (conv(2 * channels, channels, bias=True) for _ in range(3))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            both = torch.cat((h, x[:, t]), dim=1)
            u, r = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            c = F.relu(self.candidate(torch.cat((r * h, x[:, t]), dim=1)))
            h = u * h + (1 - u) * c
            states.append(h)
        return torch.stack(states, dim=1)


class Separable(nn.Module):
    def __init__(self, channels: int, z: int) -> None:
        super().__init__()
        self.norm = Norm(channels, z)
        self.over_time, self.over_space = conv(channels, channels, (3, 1, 1), dims=3), conv(channels, channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.over_time(F.relu(self.norm(x, z)).transpose(1, 2)).transpose(1, 2)
        return x + self.over_space(h.flatten(0, 1)).view_as(x)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, z: int, upsample: bool) -> None:
        super().__init__()
        self.scale = 2 if upsample else 1
        self.norm1, self.norm2 = Norm(inputs, z), Norm(outputs, z)
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1) if inputs != outputs or upsample else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        batch = x.shape[:2]
        h = F.interpolate(F.relu(self.norm1(x, z)).flatten(0, 1), scale_factor=self.scale)
        h = self.conv2(F.relu(self.norm2(self.conv1(h).unflatten(0, batch), z)).flatten(0, 1))
        skip = F.interpolate(x.flatten(0, 1), scale_factor=self.scale)
        return (h + (skip if self.skip is None else self.skip(skip))).unflatten(0, batch)


class Residual(nn.Module):
    def __init__(self, channels: int, size: int, condition: int) -> None:
        super().__init__()
        self.map = conv(3, channels, 1) if size <= condition else None

    def forward(self, x: Tensor, video: Tensor | None) -> Tensor:
        if self.map is None or video is None:
            return x
        return x + self.map(F.interpolate(video.flatten(0, 1), size=x.shape[-2:])).view_as(x)


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, z: int, upsample: bool, config: LevelConfig) -> None:
        super().__init__()
        grounded = config.condition.size if config.condition else 0
        self.temporal = GRU(inputs) if config.generator.temporal_layer == "convgru" else Separable(inputs, z)
        self.block1, self.block2 = Block(inputs, inputs, z, False), Block(inputs, outputs, z, upsample)
        self.residual_temporal, self.residual1 = Residual(inputs, size, grounded), Residual(inputs, size, grounded)
        self.residual2 = Residual(outputs, size * 2 if upsample else size, grounded)

    def forward(self, x: Tensor, z: Tensor, video: Tensor | None) -> Tensor:
        x = self.residual_temporal(self.temporal(x, z), video)
        return self.residual2(self.block2(self.residual1(self.block1(x, z), video), z), video)


class PlainGenerator(nn.Module):
    def __init__(self, config: LevelConfig) -> None:
        super().__init__()
        self.config, g = config, config.generator
        self.embedding = nn.Embedding(config.classes, g.embedding) if config.classes else None
        z, channels, size = (
            g.noise + (g.embedding if config.classes else 0),
            g.multipliers[0] * g.channels,
            config.first_size,
        )
        self.first = linear(z, channels * size * size)
        self.units = nn.ModuleList()
        for i, multiplier in enumerate(g.multipliers):
            upsample, outputs = g.last_unit_upsamples or i < len(g.multipliers) - 1, multiplier * g.channels
            self.units.append(Unit(channels, outputs, size, z, upsample, config))
            channels, size = outputs, size * 2 if upsample else size
        self.last_norm, self.last_conv = Norm(channels, z), conv(channels, 3, bias=True)

    def forward(self, noise: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        z = noise if self.embedding is None else torch.cat((noise, self.embedding(labels)), dim=1)
        video = None if condition is None else condition.repeat_interleave(self.config.factor, dim=1)
        frames, size = self.config.view.frames if video is None else video.shape[1], self.config.first_size
        x = self.first(z).view(len(z), 1, -1, size, size).repeat(1, frames, 1, 1, 1)
        for unit in self.units:
            x = unit(x, z, video)
        x = F.relu(self.last_norm(x, z)).flatten(0, 1)
        return torch.tanh(widened(self.last_conv(x))).unflatten(0, (-1, frames))


class DownBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, dims: int, downsample: bool, first: bool) -> None:
        super().__init__()
        self.first, self.downsample = first, downsample
        self.conv1, self.conv2 = (conv(i, outputs, dims=dims, bias=True) for i in (inputs, outputs))
        self.skip = conv(inputs, outputs, 1, dims=dims, bias=True)

    def pool(self, x: Tensor) -> Tensor:
        if not self.downsample:
            return x
        return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, (min(2, x.shape[2]), 2, 2), ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        return self.pool(self.conv2(F.relu(h))) + self.skip(self.pool(x))


class PlainDiscriminator(nn.Module):
    def __init__(self, config: LevelConfig, inputs: int, blocks_3d: int) -> None:
        super().__init__()
        d, self.blocks_3d = config.discriminators, blocks_3d
        widths = [inputs, *(m * d.channels for m in d.multipliers)]
        self.blocks = nn.ModuleList(
            DownBlock(*pair, dims=3 if i < blocks_3d else 2, downsample=i < len(widths) - 2, first=i == 0)
            for i, pair in enumerate(pairwise(widths))
        )
        self.last = linear(widths[-1], 1, bias=False)
        classes = config.classes if d.projection else 0
        self.projection = spectral_norm(nn.Embedding(classes, widths[-1])) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = x.transpose(1, 2)
        for block in self.blocks[: self.blocks_3d]:
            x = block(x)
        steps, x = x.shape[2], x.transpose(1, 2).flatten(0, 1)
        for block in self.blocks[self.blocks_3d :]:
            x = block(x)
        h = F.relu(x).sum((2, 3)).unflatten(0, (-1, steps))
        out = self.last(h)[..., 0]
        return out if self.projection is None else out + (h * self.projection(labels)[:, None]).sum(2)


class PlainDiscriminators(nn.Module):
    def __init__(self, config: LevelConfig) -> None:
        super().__init__()
        self.config = config
        self.spatial, self.temporal = PlainDiscriminator(config, 3, 0), PlainDiscriminator(config, 3, 2)
        matching = config.condition is not None and config.discriminators.matching
        self.matching = PlainDiscriminator(config, 6, 2) if matching else None

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        """The outputs of all on videos x, whose conditions, labels and chosen frames are those of `clips`."""
        chosen = torch.stack([video[frames] for video, frames in zip(x, clips.frames, strict=True)])
        half = F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        outputs = [self.spatial(chosen, clips.labels), self.temporal(half, clips.labels)]
        if self.matching is not None:
            assert clips.condition is not None and clips.rounding is not None
            pair = torch.cat((clips.condition, f_s(x[:, :: self.config.factor], clips.condition.shape[-1])), dim=2)
            outputs.append(self.matching(pair + clips.rounding, clips.labels))
        return torch.cat(outputs, dim=1)


class PlainTraining:
    """Both networks and their updates, hinge losses and Adam (App. A, B.1)."""

    def __init__(
        self, config: LevelConfig, *, lr_generator: float, lr_discriminator: float, betas: tuple[float, float]
    ):
        self.generator, self.discriminators = PlainGenerator(config), PlainDiscriminators(config)
        self._adam_g = torch.optim.Adam(self.generator.parameters(), lr=lr_generator, betas=betas)
        self._adam_d = torch.optim.Adam(self.discriminators.parameters(), lr=lr_discriminator, betas=betas)

    def discriminator_update(self, real: Clips, fake: Clips) -> Tensor:
        with torch.no_grad():
            video = self.generator(fake.noise, fake.labels, fake.condition)
        self._adam_d.zero_grad()
        on_real, on_fake = self.discriminators(real.video, real), self.discriminators(video, fake)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        loss.backward()
        self._adam_d.step()
        return loss.detach()

    def generator_update(self, fake: Clips) -> Tensor:
        self._adam_g.zero_grad()
        loss = -self.discriminators(self.generator(fake.noise, fake.labels, fake.condition), fake).mean()
        loss.backward()
        self._adam_g.step()
        return loss.detach()


def copy_weights(ours: nn.Module, plain: nn.Module) -> None:
    """Give a plain network ours' weights and singular vectors. Raises RuntimeError where they are not all."""
    parts = {"weight": "parametrizations.weight.original", "u": "parametrizations.weight.0._u"}
    parts["v"] = "parametrizations.weight.0._v"
    state = {}
    names = plain.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        module, _, part = name.rpartition(".")
        normalized = f"{module}.{parts.get(part, part)}"
        state[normalized if normalized in names else name] = tensor.clone()
    plain.load_state_dict(state)

"""The generators: a first level from noise, upsampling levels from noise and a condition (Sec. 3, App. B.1, B.2)."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.blocks import ConvGRU, GeneratorBlock, SeparableBlock
from models.config import LevelConfig
from models.layers import Conv, Linear, widened
from models.norm import ConditionalBatchNorm
from models.vector_math import make_first_call


class Residual(nn.Module):
    """Adds x^{l-1}, by nearest neighbour and a 1x1 convolution, to the features after a block (App. B.2).

    Features above the resolution of x^{l-1} pass unchanged: a low-resolution video is not scaled up. With no
    condition size there is no residual anywhere.
    """

    def __init__(self, channels: int, size: int, condition_size: int | None) -> None:
        super().__init__()
        self.size = size
        grounded = condition_size is not None and size <= condition_size
        self.map = Conv(3, channels, (1, 1)) if grounded else None

    def forward(
        self, x: Float[Tensor, "B T C H W"], video: Float[Tensor, "B T 3 h w"] | None
    ) -> Float[Tensor, "B T C H W"]:
        if self.map is None or video is None:
            return x
        small = F.interpolate(video.flatten(0, 1), size=(self.size, self.size), mode="nearest")
        return x + self.map(small).view_as(x)


class Unit(nn.Module):
    """A temporal layer and two 2D ResNet blocks, each followed by the residual of the condition.

    PAPER: which block changes width and resolution is not said; the second, as in DVD-GAN.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, z: int, *, upsample: bool, separable: bool, grounded: int | None
    ) -> None:
        super().__init__()
        self.temporal = SeparableBlock(inputs, z) if separable else ConvGRU(inputs)
        self.block1 = GeneratorBlock(inputs, inputs, z, upsample=False)
        self.block2 = GeneratorBlock(inputs, outputs, z, upsample=upsample)
        self.residual_temporal = Residual(inputs, size, grounded)
        self.residual1 = Residual(inputs, size, grounded)
        self.residual2 = Residual(outputs, 2 * size if upsample else size, grounded)

    def forward(
        self, x: Float[Tensor, "B T i H W"], z: Float[Tensor, "B d"], video: Float[Tensor, "B T 3 h w"] | None
    ) -> Float[Tensor, "B T o hh ww"]:
        x = self.residual_temporal(self.temporal(x, z), video)
        x = self.residual1(self.block1(x, z), video)
        return self.residual2(self.block2(x, z), video)


class Generator(nn.Module):
    """G_l: noise, labels and, above level 1, x^{l-1} -> x^l.

    Convolutional in time: above level 1 the number of output frames is K_T times the condition's, whatever it is. Its
    batch norms know timesteps, so in evaluation mode they need statistics for the length in use (`models.unroll`).
    """

    def __init__(self, config: LevelConfig) -> None:
        super().__init__()
        make_first_call()
        self.config = config
        self.recompute = False  # whether a unit's activations are computed again in the backward pass, not kept
        g = config.generator
        # PAPER: spectral norm "in the generator", orthogonal matrices for "all the weights"; here neither. The norm,
        # which BigGAN's code leaves out as well, would hold 600 rows of 128 numbers to an rms length of at most 0.46,
        # beside z's 11.3. Rows of N(0, 1) begin as long as z; docs/performance.md compares them.
        self.embedding = nn.Embedding(config.classes, g.embedding) if config.classes else None
        z = g.noise + (g.embedding if config.classes else 0)
        size, channels = config.first_size, g.multipliers[0] * g.channels
        self.first = Linear(z, channels * size * size)
        grounded = config.condition.size if config.condition else None
        units = []
        for i, multiplier in enumerate(g.multipliers):
            upsample = g.last_unit_upsamples or i < len(g.multipliers) - 1
            outputs = multiplier * g.channels
            separable = g.temporal_layer == "separable3d"
            units.append(Unit(channels, outputs, size, z, upsample=upsample, separable=separable, grounded=grounded))
            channels, size = outputs, 2 * size if upsample else size
        assert size == config.view.size
        self.units = nn.ModuleList(units)
        self.last_norm = ConditionalBatchNorm(channels, z)
        self.last_conv = Conv(channels, 3, bias=True)

    def forward(
        self,
        noise: Float[Tensor, "B n"],
        labels: Int[Tensor, " B"] | None,
        condition: Float[Tensor, "B t 3 h w"] | None,
    ) -> Float[Tensor, "B T 3 H W"]:
        """A video in [-1, 1].

        `labels` are None without classes; `condition` is x^{l-1} in [-1, 1], None at level 1. T is the view's at level
        1, and the condition's times K_T above it.
        """
        z = noise if self.embedding is None else torch.cat((noise, self.embedding(labels)), dim=1)
        frames = self.config.view.frames
        if condition is not None:
            condition = repeat(condition, "b t c h w -> b (t k) c h w", k=self.config.factor)
            frames = condition.shape[1]
        x = rearrange(self.first(z), "b (c h w) -> b c h w", h=self.config.first_size, w=self.config.first_size)
        x = repeat(x, "b c h w -> b t c h w", t=frames)
        for unit in self.units:
            if self.recompute:  # a unit draws nothing random and moves no buffer: once more gives the same bits
                x = checkpoint(unit, x, z, condition, use_reentrant=False, preserve_rng_state=False)
            else:
                x = unit(x, z, condition)
        x = self.last_norm(x, z).flatten(0, 1)
        return torch.tanh(widened(self.last_conv(x))).unflatten(0, (-1, frames))

"""The blocks that generators and discriminators stack (App. B)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.folded import PooledConv, UpsampledConv, pool
from models.layers import Conv, autocasted
from models.norm import ConditionalBatchNorm


class ConvGRU(nn.Module):
    """A convolutional GRU with a ReLU update (App. B.1, after DVD-GAN).

    PAPER: its width is not said; as many hidden channels as its input.

    u, r = sigmoid(W [h, x]); c = ReLU(W_c [r h, x]); h' = u h + (1 - u) c; h_0 = 0. The hidden states are its output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.update = Conv(2 * channels, channels, bias=True)
        self.reset = Conv(2 * channels, channels, bias=True)
        self.candidate = Conv(2 * channels, channels, bias=True)

    def forward(self, x: Float[Tensor, "B T C H W"], condition: Tensor) -> Float[Tensor, "B T C H W"]:
        del condition  # no batch norm here: the argument is the separable block's
        layers = self.update, self.reset, self.candidate
        of_h, of_x = torch.cat([layer.normalized() for layer in layers]).split(self.channels, dim=1)
        bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
        # W [h, x] = W_h h + W_x x: the second for all timesteps at once
        from_x = F.conv2d(x.flatten(0, 1), of_x, bias, padding=1).unflatten(0, x.shape[:2])
        parts = [2 * self.channels, self.channels]
        gates, candidate = autocasted(of_h).split(parts)
        h = torch.zeros_like(x[:, 0])
        states = []
        for step in from_x.unbind(1):
            gates_x, candidate_x = step.split(parts, dim=1)
            u, r = (F.conv2d(h, gates, padding=1) + gates_x).sigmoid().chunk(2, dim=1)
            c = (F.conv2d(r * h, candidate, padding=1) + candidate_x).relu()
            h = u * h + (1 - u) * c
            states.append(h)
        return torch.stack(states, dim=1)


class SeparableBlock(nn.Module):
    """A residual block norm-act-conv(3x1x1)-conv(1x3x3): the upsampling levels' temporal layer (App. B.2).

    PAPER: it is called a 3D-ResNet block and a separable convolution; what stands around the two is not said.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = ConditionalBatchNorm(channels, condition)
        self.over_time = Conv(channels, channels, (3, 1, 1))
        self.over_space = Conv(channels, channels, (3, 3))

    def forward(self, x: Float[Tensor, "B T C H W"], condition: Float[Tensor, "B d"]) -> Float[Tensor, "B T C H W"]:
        h = self.norm(x, condition)
        h = rearrange(self.over_time(rearrange(h, "b t c h w -> b c t h w")), "b c t h w -> (b t) c h w")
        return x + self.over_space(h).view_as(x)


class GeneratorBlock(nn.Module):
    """A 2D ResNet block norm-act-(up)-conv-norm-act-conv on every frame (App. B.1)."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, upsample: bool) -> None:
        super().__init__()
        conv = UpsampledConv if upsample else Conv
        self.norm1 = ConditionalBatchNorm(inputs, condition)
        self.conv1 = conv(inputs, outputs)
        self.norm2 = ConditionalBatchNorm(outputs, condition)
        self.conv2 = Conv(outputs, outputs)
        # PAPER: the skip connection is not described; 1x1 where channels or resolution change, as in BigGAN
        self.skip = conv(inputs, outputs, (1, 1)) if inputs != outputs or upsample else None

    def forward(self, x: Float[Tensor, "B T i H W"], condition: Float[Tensor, "B d"]) -> Float[Tensor, "B T o h w"]:
        batch = x.shape[:2]
        h = self.conv1(self.norm1(x, condition).flatten(0, 1)).unflatten(0, batch)
        h = self.conv2(self.norm2(h, condition).flatten(0, 1))
        skip = x.flatten(0, 1) if self.skip is None else self.skip(x.flatten(0, 1))
        return (h + skip).unflatten(0, batch)


class DiscriminatorBlock(nn.Module):
    """A ResNet block relu-conv-relu-conv-(pool), on frames (2D) or on whole clips (3D) (App. B.1).

    PAPER: widths inside and the skip connection are not described: the block's output channels, and a 1x1 convolution,
    as in BigGAN; the first block of a network has no first relu, since its input is an image.
    """

    def __init__(self, inputs: int, outputs: int, *, dims: int, downsample: bool, first: bool) -> None:
        super().__init__()
        self.first = first
        self.downsample = downsample
        self.conv1 = Conv(inputs, outputs, (3,) * dims, bias=True)
        self.conv2 = (PooledConv if downsample else Conv)(outputs, outputs, (3,) * dims, bias=True)
        self.skip = Conv(inputs, outputs, (1,) * dims, bias=True)

    def forward(self, x: Float[Tensor, "N i ..."]) -> Float[Tensor, "N o ..."]:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return h + self.skip(pool(x) if self.downsample else x)

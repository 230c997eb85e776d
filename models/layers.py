"""Layers with spectral norm, and the conditional batch norm of a video (App. A).

Every convolution, linear map and embedding of G and D is divided by its first singular value. The singular vectors
move by one power iteration an optimizer step (`power_iteration`), never in the forward pass, which is therefore pure:
the same under torch.compile and recomputation, and while generating.

Under autocast convolutions and linear maps are bfloat16; sigma and the moments of batch norms are not.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Arithmetic in the operands' own precision, whatever the caller's autocast says; on any device, meta included."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def widened(tensor: Tensor) -> Tensor:
    """bfloat16 -> float32, where sums and differences follow; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class SpectralNorm(nn.Module):
    """A weight and its first singular vectors u and v; `normalized` is W / sigma with sigma = u^T W v."""

    u: Tensor
    v: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_buffer("u", torch.empty(shape[0]))
        self.register_buffer("v", torch.empty(math.prod(shape[1:])))
        if not self.weight.is_meta:  # there only shapes count, and a second a network goes into initialising nothing
            self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """App. A: orthogonal initialisation for all the weights."""
        nn.init.orthogonal_(self.weight)
        self.u.copy_(F.normalize(torch.randn_like(self.u), dim=0))
        self.iterate()

    def normalized(self) -> Tensor:
        """W / sigma, with the gradient through sigma; u and v are constants."""
        with without_autocast(self.weight):
            return self.weight / self.sigma()

    def sigma(self) -> Float[Tensor, ""]:
        """u^T W v: the first singular value, as far as the power iterations have come."""
        return torch.dot(self.u, self.weight.flatten(1) @ self.v)

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration towards the first singular vectors."""
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))


def power_iteration(network: nn.Module) -> None:
    """Move every singular vector of a network by one power iteration: once after each of its optimizer steps."""
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            module.iterate()


class Linear(SpectralNorm):
    """A spectrally normalised linear map."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(outputs, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        return F.linear(x, self.normalized(), self.bias)


class Embedding(SpectralNorm):
    """A spectrally normalised table of one vector a class."""

    def forward(self, labels: Int[Tensor, " B"]) -> Float[Tensor, "B d"]:
        return F.embedding(labels, self.normalized())


class Conv(SpectralNorm):
    """A spectrally normalised convolution, stride 1, that keeps the size: 2D over (N C H W), 3D over (N C T H W).

    Without a bias by default: where a batch norm follows, a bias has no gradient but noise, which Adam would blow up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = (3, 3), *, bias: bool = False) -> None:
        super().__init__(outputs, inputs, *kernel)
        self.padding = tuple(k // 2 for k in kernel)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Float[Tensor, "N i ..."]) -> Float[Tensor, "N o ..."]:
        convolve = F.conv3d if len(self.padding) == 3 else F.conv2d
        return convolve(x, self.normalized(), self.bias, padding=self.padding)


@torch.no_grad()
def channels_last(network: nn.Module) -> None:
    """Lay out the weights of a network's convolutions channels last, in place; inputs and outputs follow them."""
    for module in network.modules():
        if isinstance(module, Conv):
            layout = torch.channels_last_3d if len(module.padding) == 3 else torch.channels_last
            module.weight.data = module.weight.data.contiguous(memory_format=layout)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a mean and deviation per (timestep, channel), gain and bias mapped from the condition (App. A).

    PAPER: a gain of 1 + W c, as in BigGAN, so that it begins near 1.

    In training mode the statistics are those of the global batch, over all workers (synchronous batch norm). In
    evaluation mode they are the stored ones, which `models.unroll` collects for a length and a sigma.
    """

    eps = 1e-5

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain = Linear(condition, channels, bias=False)
        self.bias = Linear(condition, channels, bias=False)
        self.stored: tuple[Tensor, Tensor] | None = None  # mean and variance, each [T, C]

    def forward(self, x: Float[Tensor, "B T C H W"], condition: Float[Tensor, "B d"]) -> Float[Tensor, "B T C H W"]:
        steps = x.flatten(1, 2)  # B (T C) H W: to a plain batch norm, every (timestep, channel) is a channel
        if self.training:
            steps = _normalize(steps, self.eps)
        else:
            mean, variance = (s.to(x).flatten() for s in self.statistics(x.shape[1]))
            steps = F.batch_norm(steps, mean, variance, eps=self.eps)
        gain, bias = (m(condition)[:, None, :, None, None] for m in (self.gain, self.bias))
        return torch.addcmul(bias, steps.view_as(x), 1 + gain)

    def statistics(self, frames: int) -> tuple[Float[Tensor, "T C"], Float[Tensor, "T C"]]:
        """The stored mean and variance. Raises ValueError where they are not of `frames` timesteps."""
        if self.stored is None or len(self.stored[0]) != frames:
            has = "none" if self.stored is None else f"{len(self.stored[0])} timesteps"
            raise ValueError(f"batch-norm statistics for {frames} timesteps are needed, there are {has}")
        return self.stored


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_moments(x: Float[Tensor, "..."], dims: tuple[int, ...]) -> Float64[Tensor, "2 ..."]:
    """The mean and mean square over `dims` of all workers' batches, which are equally large.

    In float64: the variance is a difference of the two.
    """
    variance, mean = torch.var_mean(widened(x), dim=dims, correction=0)
    mean = mean.double()
    moments = torch.stack((mean, variance.double() + mean**2))
    if _workers() > 1:
        dist.all_reduce(moments)
        moments /= _workers()
    return moments


def _normalize(x: Float[Tensor, "B C H W"], eps: float) -> Float[Tensor, "B C H W"]:
    """x less its mean over its deviation, both a channel and over all workers."""
    if _workers() > 1:
        return _SyncNormalize.apply(x, eps)
    # A float32 gain beside a bfloat16 x has torch keep the moments in float32, on the CPU as well.
    one = torch.ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    return F.batch_norm(x, None, None, weight=one, bias=torch.zeros_like(one), training=True, eps=eps)


class _SyncNormalize(torch.autograd.Function):
    """Batch norm over all workers with its gradient. torch's SyncBatchNorm refuses the CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:
        wide = widened(x)
        moments = global_moments(wide, (0, 2, 3))
        mean = moments[0].to(wide)
        deviation = (moments[1] - moments[0] ** 2 + eps).sqrt().to(wide)
        normalized = ((wide - mean[:, None, None]) / deviation[:, None, None]).to(x)
        ctx.save_for_backward(normalized, deviation)
        return normalized

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] - one output, one gradient
        normalized, deviation = ctx.saved_tensors
        wide = widened(gradient)
        means = torch.stack((wide.mean((0, 2, 3)), (wide * normalized).mean((0, 2, 3)))).double()
        dist.all_reduce(means)
        mean, along = (means / _workers()).to(wide)[..., None, None]
        return ((wide - mean - normalized * along) / deviation[:, None, None]).to(gradient), None

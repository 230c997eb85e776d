"""Batch norm of clips: the moments of every timestep, over all workers (App. A). Under autocast they stay float32."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from models.layers import Linear, widened


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a mean and deviation per (timestep, channel), gain and bias mapped from the condition (App. A),
    and the ReLU that follows wherever there is one.

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
        gain, bias = (1 + self.gain(condition), self.bias(condition))
        if self.training:
            return _NormReLU.apply(x, gain, bias, self.eps)
        mean, variance = (s.to(x).flatten() for s in self.statistics(x.shape[1]))
        normalized = F.batch_norm(_by_timestep(x), mean, variance, eps=self.eps).view_as(x)
        return torch.addcmul(_per_channel(bias), normalized, _per_channel(gain)).relu()

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


def _by_timestep(x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T*C H W"]:
    """To a plain batch norm every (timestep, channel) is a channel."""
    return x.flatten(1, 2)


def _per_channel(values: Float[Tensor, "B C"]) -> Float[Tensor, "B 1 C 1 1"]:
    return values[:, None, :, None, None]


class _NormReLU(torch.autograd.Function):
    """ReLU(gain * (x - mean) / deviation + bias), the moments those of the global batch, over all workers.

    As one function, because its backward pass needs of the three only x and the result: what is between is computed
    again. torch's SyncBatchNorm refuses the CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
        steps = _by_timestep(x)
        if _workers() > 1:
            mean, square = global_moments(steps, (0, 2, 3))
            wide = torch.promote_types(x.dtype, torch.float32)
            mean, scale = mean.to(wide), (square - mean**2 + eps).rsqrt().to(wide)
            normalized = ((widened(steps) - mean[:, None, None]) * scale[:, None, None]).to(x)
        else:
            normalized, mean, scale = torch.native_batch_norm(steps, *_plain(steps), None, None, True, 0.0, eps)
        y = torch.addcmul(_per_channel(bias), normalized.view_as(x), _per_channel(gain)).relu_()
        ctx.save_for_backward(x, gain, mean, scale, y)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] - one output, one gradient
        x, gain, mean, scale, y = ctx.saved_tensors
        steps = _by_timestep(x)
        normalized = (widened(steps) - mean[:, None, None]) * scale[:, None, None]
        at_affine = torch.where(y > 0, gradient, 0)
        of_gain = (at_affine * normalized.view_as(x)).sum((1, 3, 4)).to(gain)
        of_bias = at_affine.sum((1, 3, 4)).to(gain)
        at_norm = _by_timestep(at_affine * _per_channel(gain)).to(x)
        if _workers() > 1:
            wide = widened(at_norm)
            means = torch.stack((wide.mean((0, 2, 3)), (wide * normalized).mean((0, 2, 3)))).double()
            dist.all_reduce(means)
            level, along = (means / _workers()).to(wide)[..., None, None]
            of_x = ((wide - level - normalized * along) * scale[:, None, None]).to(x)
        else:
            weight, _ = _plain(steps)
            of_x = torch.ops.aten.native_batch_norm_backward(
                at_norm, steps, weight, None, None, mean, scale, True, ctx.eps, [True, False, False]
            )[0]
        return of_x.view_as(x), of_gain, of_bias, None


def _plain(steps: Tensor) -> tuple[Tensor, Tensor]:
    """A gain of one and a bias of zero: float32 ones beside bfloat16 have torch keep its moments in float32."""
    one = torch.ones(steps.shape[1], dtype=torch.promote_types(steps.dtype, torch.float32), device=steps.device)
    return one, torch.zeros_like(one)

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
        normalized = F.batch_norm(x.flatten(1, 2), mean, variance, eps=self.eps).view_as(x)
        return torch.addcmul(_per_channel(bias), normalized, _per_channel(gain)).relu()

    def statistics(self, frames: int) -> tuple[Float[Tensor, "T C"], Float[Tensor, "T C"]]:
        """The stored mean and variance. Raises ValueError where they are not of `frames` timesteps."""
        if self.stored is None or len(self.stored[0]) != frames:
            has = "none" if self.stored is None else f"{len(self.stored[0])} timesteps"
            raise ValueError(f"batch-norm statistics for {frames} timesteps are needed, there are {has}")
        return self.stored


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_moments(x: Float[Tensor, "B T C H W"]) -> Float64[Tensor, "2 T C"]:
    """The mean and mean square of every timestep and channel, over all workers' batches, which are equally large."""
    _, mean, variance = _centred(x)
    return _over_workers(mean, variance)


def _centred(
    x: Float[Tensor, "B T C H W"],
) -> tuple[Float[Tensor, "B T C H W"], Float[Tensor, "T C"], Float[Tensor, "T C"]]:
    """x less its mean, that mean and the variance, of this worker's batch, without a difference of large squares."""
    mean = x.sum((3, 4), dtype=_wide(x)).sum(0) / _count(x)
    centred = x - _per_pixel(mean)
    return centred, mean, torch.linalg.vector_norm(centred, dim=(3, 4)).square().sum(0) / _count(x)


def _over_workers(mean: Float[Tensor, "T C"], variance: Float[Tensor, "T C"]) -> Float64[Tensor, "2 T C"]:
    """Of all workers' batches the mean and mean square. In float64: the variance is a difference of the two."""
    moments = torch.stack((mean.double(), variance.double() + mean.double() ** 2))
    if _workers() > 1:
        dist.all_reduce(moments)
        moments /= _workers()
    return moments


def _count(x: Float[Tensor, "B T C H W"]) -> int:
    """What a mean of a timestep and channel is over."""
    return x.shape[0] * x.shape[3] * x.shape[4]


def _wide(x: Tensor) -> torch.dtype:
    """What sums over it are taken in."""
    return torch.promote_types(x.dtype, torch.float32)


def _per_channel(values: Float[Tensor, "B C"]) -> Float[Tensor, "B 1 C 1 1"]:
    return values[:, None, :, None, None]


def _per_pixel(values: Float[Tensor, "*B T C"]) -> Float[Tensor, "*B T C 1 1"]:
    return values[..., None, None]


class _NormReLU(torch.autograd.Function):
    """ReLU(gain * (x - mean) / deviation + bias), the moments those of the global batch, over all workers.

    As one function, because its backward pass needs of the three only x and the result: what is between is computed
    again. torch's SyncBatchNorm refuses the CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
        if x.dtype == torch.bfloat16 and _workers() == 1:
            mean, scale, y = _of_kernel(x, gain, bias, eps)
        else:
            centred, of_worker, variance = _centred(x)
            mean = of_worker
            if _workers() > 1:
                mean, square = _over_workers(mean, variance)
                mean, variance = mean.to(centred), (square - mean**2).to(centred)
            scale = (variance + eps).rsqrt()
            factor = gain[:, None] * scale
            offset = bias[:, None] + (of_worker - mean) * factor
            y = torch.addcmul(_per_pixel(offset), centred, _per_pixel(factor)).relu_().to(x)
        ctx.save_for_backward(x, gain, mean, scale, y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] - one output, one gradient
        """With g the gradient where y > 0, n = (x - mean) / deviation and means over batch and pixels of all workers:

        of x: gain * g - mean(gain * g) - n * mean(gain * g * n), over the deviation. Sums over pixels are all it takes.
        """
        x, gain, mean, scale, y = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        shift = mean.to(x)  # products with x itself would be rounded to bfloat16 before the mean is taken off
        shifted, mean = x - _per_pixel(shift), mean - shift
        of_bias = gradient.sum((3, 4), dtype=_wide(x))  # at every timestep
        of_gain = ((gradient * shifted).sum((3, 4), dtype=_wide(x)) - mean * of_bias) * scale
        wide_gain = widened(gain)[:, None]
        means = torch.stack(((wide_gain * of_bias).sum(0), (wide_gain * of_gain).sum(0))) / _count(x)
        if _workers() > 1:
            means = means.double()
            dist.all_reduce(means)
            means = (means / _workers()).to(scale)
        level, along = means * scale
        slope = -along * scale
        of_x = torch.addcmul(_per_pixel(-level - slope * mean), shifted, _per_pixel(slope))
        of_x = of_x.addcmul_(gradient, _per_pixel(wide_gain * scale)).to(x)
        return of_x, of_gain.sum(1).to(gain), of_bias.sum(1).to(gain), None


def _of_kernel(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and result by torch's kernel, which makes no float32 copy of a bfloat16 x.

    To it every (timestep, channel) is a channel, and float32 ones and zeros have it keep moments in float32.
    """
    channels = x.flatten(1, 2)
    one = torch.ones(channels.shape[1], device=x.device)
    zero = torch.zeros_like(one)
    normalized, mean, scale = torch.native_batch_norm(channels, one, zero, None, None, True, 0.0, eps)
    y = torch.addcmul(_per_channel(bias), normalized.view_as(x), _per_channel(gain)).relu_().to(x)
    return mean.view(x.shape[1:3]), scale.view(x.shape[1:3]), y

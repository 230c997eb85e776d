"""Layers with spectral norm (App. A).

Every convolution and linear map of G and D is divided by its first singular value, and so is D's class table. The
singular vectors move by one power iteration an optimizer step (`power_iteration`), never in the forward pass, which is
therefore pure: the same under torch.compile and recomputation, and while generating.

Under autocast convolutions and linear maps are bfloat16; sigma is not.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Arithmetic in the operands' own precision, whatever the caller's autocast says; on any device, meta included."""
    return torch.autocast(tensor.device.type, enabled=False) if _has_autocast(tensor) else nullcontext()


def autocasted(weight: Tensor) -> Tensor:
    """What the caller's autocast would make of a weight, once for all that take it in a loop."""
    device = weight.device.type
    enabled = _has_autocast(weight) and torch.is_autocast_enabled(device)
    return weight.to(torch.get_autocast_dtype(device)) if enabled else weight


def _has_autocast(tensor: Tensor) -> bool:
    """`torch.amp.is_autocast_available` of its device, at which torch.compile would break the graph (torch 2.11)."""
    return not tensor.is_meta


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

"""I3D, the inflated Inception-v1 whose features the metrics compare (Carreira and Zisserman 2017; here Sec. 5.1).

Modules bear the names of the well-known PyTorch port, so that its state dicts load as they are. Convolutions and pools
pad as TensorFlow's "SAME" does: as little as gives ceil(size / stride) outputs, the odd cell at the end.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.vector_math import make_first_call

MIN_FRAMES = 9  # fewer leave one timestep before the last average pool, which takes two
SIZE = 224  # pixels
FEATURES = 1024  # pooled activations before the logits

# Output channels of an Inception block's convolutions: b0; b1a, b1b; b2a, b2b; b3b (Szegedy et al. 2015, Table 1).
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": None,
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": None,
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _pad_same(x: Float[Tensor, "B C T H W"], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around time, height and width as TensorFlow's "SAME"; before a max pool they follow a ReLU: no maximum."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class _Unit3D(nn.Module):
    """Convolution, batch norm, ReLU; the logits' unit is a convolution with a bias alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, logits: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=logits)
        self.bn = None if logits else nn.BatchNorm3d(outputs, eps=0.001)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class _MaxPool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C t h w"]:
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """An Inception block: 1x1x1; 1x1x1 and 3x3x3, twice; pool and 1x1x1; side by side."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = _Unit3D(inputs, b0)
        self.b1a = _Unit3D(inputs, b1a)
        self.b1b = _Unit3D(b1a, b1b, 3)
        self.b2a = _Unit3D(inputs, b2a)
        self.b2b = _Unit3D(b2a, b2b, 3)
        self.b3a = _MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = _Unit3D(inputs, b3b)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T H W"]:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """The RGB network with `classes` logits. Always in evaluation mode where it measures: call .eval()."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        make_first_call()
        self.Conv3d_1a_7x7 = _Unit3D(3, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = _MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = _Unit3D(64, 64)
        self.Conv3d_2c_3x3 = _Unit3D(64, 192, 3)
        self.MaxPool3d_3a_3x3 = _MaxPool((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, widths in _MIXED.items():
            if widths is None:
                kernel = (3, 3, 3) if name.endswith("3x3") else (2, 2, 2)
                self.add_module(name, _MaxPool(kernel, (2, 2, 2)))
            else:
                self.add_module(name, _Mixed(channels, widths))
                channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = _Unit3D(channels, classes, logits=True)
        self.classes = classes
        self.trunk = [name for name, _ in self.named_children() if name != "logits"]

    def features(
        self, video: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "B 1024"], Float[Tensor, "B {self.classes}"]]:
        """The pooled activations before the logits and the logits, each averaged over time.

        `video` is in [-1, 1], 224 x 224 pixels and at least 9 frames (ValueError otherwise).
        """
        if video.shape[1] < MIN_FRAMES or video.shape[-2:] != (SIZE, SIZE):
            raise ValueError(f"I3D takes at least {MIN_FRAMES} frames of {SIZE}x{SIZE}, not {tuple(video.shape)}")
        x = rearrange(video, "b t c h w -> b c t h w")
        for name in self.trunk:
            x = self.get_submodule(name)(x)
        pooled = F.avg_pool3d(x, (2, SIZE // 32, SIZE // 32), stride=1)
        return pooled.mean(dim=(2, 3, 4)), self.logits(pooled).mean(dim=(2, 3, 4))

    def forward(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B {self.classes}"]:
        return self.features(video)[1]

    def randomize(self, seed: int) -> None:
        """Seeded random weights, the same on every machine, whose features still tell videos apart.

        Every filter has mean 0 and a variance that keeps that of the activations behind a ReLU (1/2 - 1/(2 pi) of a
        normal variable's). Filters with a mean would pass on the activations' common mean, beside which the
        differences between videos vanish: features of natural clips then correlate by 0.996, so by about 0.4.
        What a random I3D measures is comparable between runs of one seed, and with nothing else.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv3d):
                    weight = torch.randn(module.weight.shape, generator=generator)
                    weight -= weight.mean(dim=(1, 2, 3, 4), keepdim=True)
                    module.weight.copy_(weight / math.sqrt(weight[0].numel() * (0.5 - 0.5 / math.pi)))
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

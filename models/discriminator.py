"""The discriminators of a level: spatial, temporal and, above level 1, matching (Sec. 3, App. B.1, B.2)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.blocks import DiscriminatorBlock
from models.config import DiscriminatorConfig, LevelConfig
from models.hierarchy import f_s, f_t
from models.layers import Embedding, Linear, widened, without_autocast

# The outputs of a level's discriminators, by discriminator ("spatial", "temporal", "matching"): [N, outputs a clip].
Outputs = dict[str, Float[Tensor, "N _"]]


class Discriminator(nn.Module):
    """A stack of blocks with one output for every timestep that its 3D blocks leave.

    `blocks_3d` is how many of the blocks, from the input side, are 3D: 0 for the spatial discriminator, whose
    timesteps are single frames; 2 for the temporal and the matching ones.
    """

    def __init__(self, config: DiscriminatorConfig, *, inputs: int, blocks_3d: int, classes: int) -> None:
        super().__init__()
        self.blocks_3d = blocks_3d
        widths = [inputs, *(m * config.channels for m in config.multipliers)]
        last = len(config.multipliers) - 1
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(below, above, dims=3 if i < blocks_3d else 2, downsample=i < last, first=i == 0)
            for i, (below, above) in enumerate(pairwise(widths))
        )
        # PAPER: the last layer is not described; as in BigGAN a sum over space and a linear map, here without a bias:
        # No bias: inside the hinge's margin its gradients from real and fake clips cancel; Adam would follow the noise.
        self.last = Linear(widths[-1], 1, bias=False)
        self.projection = Embedding(classes, widths[-1]) if classes and config.projection else None

    def forward(self, x: Float[Tensor, "N T C H W"], labels: Int[Tensor, " N"] | None) -> Float[Tensor, "N t"]:
        x = rearrange(x, "n t c h w -> n c t h w")
        for block in self.blocks[: self.blocks_3d]:
            x = block(x)
        steps = x.shape[2]
        x = rearrange(x, "n c t h w -> (n t) c h w")
        for block in self.blocks[self.blocks_3d :]:
            x = block(x)
        with without_autocast(x):
            h = rearrange(widened(F.relu(x)).sum((2, 3)), "(n t) c -> n t c", t=steps)
            out = self.last(h)[..., 0]
            if self.projection is not None:
                assert labels is not None
                out = out + torch.einsum("ntc,nc->nt", h, self.projection(labels))
        return out


class Discriminators(nn.Module):
    """D_l: everything that tells real clips of a level from generated ones."""

    def __init__(self, config: LevelConfig) -> None:
        super().__init__()
        d = config.discriminators
        self.config = config
        self.spatial = Discriminator(d, inputs=3, blocks_3d=0, classes=config.classes)
        self.temporal = Discriminator(d, inputs=3, blocks_3d=2, classes=config.classes)
        matching = config.condition is not None and d.matching
        self.matching = Discriminator(d, inputs=6, blocks_3d=2, classes=config.classes) if matching else None

    def forward(
        self,
        x: Float[Tensor, "N T 3 H W"],
        condition: Float[Tensor, "N t 3 h w"] | None,
        labels: Int[Tensor, " N"] | None,
        frames: Int[Tensor, "N k"],
        rounding: Float[Tensor, "N t 6 h w"] | None,
    ) -> Outputs:
        """Score clips x^l, real and generated alike, with their conditions.

        `frames` says which frames of each clip the spatial discriminator sees; `rounding` is uniform noise of one grey
        level on what the matching discriminator sees. PAPER: no such noise; without it, the data's rounding to whole
        grey levels would tell real pairs, whose halves agree up to it, from generated ones.
        """
        chosen = torch.gather(x, 1, frames[:, :, None, None, None].expand(-1, -1, *x.shape[2:]))
        half = F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        outputs = {"spatial": self.spatial(chosen, labels), "temporal": self.temporal(half, labels)}
        if self.matching is not None:
            assert condition is not None
            pair = torch.cat((condition, f_s(f_t(x, self.config.factor), condition.shape[-1])), dim=2)
            outputs["matching"] = self.matching(pair if rounding is None else pair + rounding, labels)
        return outputs

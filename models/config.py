"""What the networks of one level take: plain values, frozen, keyword only."""

from dataclasses import dataclass
from typing import Literal

TemporalLayer = Literal["convgru", "separable3d"]


@dataclass(frozen=True, kw_only=True)
class View:
    """x^l of a video: the frames of level l (Sec. 2)."""

    frames: int  # T, the full length
    size: int  # H = W, in pixels


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A generator's widths and layers (App. B.1, B.2)."""

    channels: int  # ch, the base number of channels
    multipliers: tuple[int, ...]  # one a unit: its output has multiplier * ch channels
    temporal_layer: TemporalLayer  # what a unit begins with; the paper: ConvGRU at level 1, separable 3D above
    # PAPER: nothing is said of the upper levels' first size; every unit doubling from 4x4 gives exactly their sizes.
    last_unit_upsamples: bool  # whether the last unit doubles the resolution like the others
    noise: int = 128  # dimensions of z
    embedding: int = 128  # dimensions of the class embedding; unused without classes


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The widths of a level's discriminators, which are alike (App. B.1, B.2)."""

    channels: int  # the base number of channels
    # PAPER: App. B.1 lists level 1's from the output side, and calls the pooling of a block optional.
    multipliers: tuple[int, ...]  # one a block, input side first; every block but the last halves the resolution
    frames: int = 8  # k, how many frames the spatial discriminator sees
    projection: bool = True  # class projection; PAPER: not mentioned, as in DVD-GAN; unused without classes
    matching: bool = True  # the matching discriminator; a first level has none


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """One level of the hierarchy: what it makes, from what, with which networks."""

    level: int  # l, from 1
    view: View  # x^l, what it generates
    condition: View | None  # x^{l-1}; None at level 1
    classes: int  # 0: unconditional
    generator: GeneratorConfig
    discriminators: DiscriminatorConfig

    @property
    def factor(self) -> int:
        """K_T between the condition and the output: 1 at level 1."""
        return 1 if self.condition is None else self.view.frames // self.condition.frames

    @property
    def doublings(self) -> int:
        """How many units double the resolution."""
        return len(self.generator.multipliers) - (0 if self.generator.last_unit_upsamples else 1)

    @property
    def first_size(self) -> int:
        """The resolution of the generator's first tensor: what its units double to reach the view's size."""
        return self.view.size >> self.doublings

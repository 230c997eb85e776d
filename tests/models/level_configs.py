"""Tiny levels for tests: 4/8x8, and 4/8x8 -> 8/16x16."""

from dataclasses import replace

from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View

FIRST = LevelConfig(
    level=1,
    view=View(frames=4, size=8),
    condition=None,
    classes=3,
    generator=GeneratorConfig(
        channels=2, multipliers=(2, 1), temporal_layer="convgru", last_unit_upsamples=False, noise=5, embedding=4
    ),
    discriminators=DiscriminatorConfig(channels=2, multipliers=(1, 2), frames=3, matching=False),
)
SECOND = replace(
    FIRST,
    level=2,
    view=View(frames=8, size=16),
    condition=View(frames=4, size=8),
    generator=GeneratorConfig(
        channels=2, multipliers=(2, 1), temporal_layer="separable3d", last_unit_upsamples=True, noise=5, embedding=4
    ),
    discriminators=DiscriminatorConfig(channels=2, multipliers=(1, 2, 2), frames=3),
)

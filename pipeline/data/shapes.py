"""The embedded data sets' frames: 8 classes, each a shape of its own colour in its own motion, or 64 that share them.

Positions and lengths are in half frames: x to the right and y down, both from -1 to 1. Times are in frames; every
motion goes far in 28 of them, from whatever frame it is watched.
"""

import colorsys
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

Grid = np.ndarray  # float32 [T, H, W]
Times = np.ndarray  # float32 [T, 1, 1]


class Path(NamedTuple):
    """Where a shape is at each time."""

    x: Times | float
    y: Times | float
    angle: Times | float = 0.0  # radians, clockwise
    scale: Times | float = 1.0
    wraps: tuple[bool, bool] = (False, False)  # whether what leaves at one side enters at the other, in x and y


class Class(NamedTuple):
    """A class of videos."""

    name: str
    hue: float  # degrees
    saturation: float
    distance: Callable[[Grid, Grid, Times | float], Grid]  # (x, y, scale): signed, negative inside, upright at 0, 0
    path: Callable[[Times, np.random.Generator], Path]


def _box(x: Grid, y: Grid, half_width: float, half_height: float) -> Grid:
    across, along = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(across, 0), np.maximum(along, 0)) + np.minimum(np.maximum(across, along), 0)


def _polygon(x: Grid, y: Grid, corners: int, phase: float, radius: float) -> Grid:
    """A regular polygon: the farthest of its sides."""
    turns = np.arange(corners) * 2 * np.pi / corners + phase
    sides = [x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in turns]
    return np.maximum.reduce(sides) - radius * np.float32(np.cos(np.pi / corners))


def _star(x: Grid, y: Grid, radius: float) -> Grid:
    """Five points, one upwards. Folded into half a point, where its edge is one line from tip to notch."""
    fold = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fold) % (2 * fold) - fold)
    length = np.hypot(x, y)
    along, across = length * np.cos(angle), length * np.sin(angle)
    notch = 0.45 * radius
    edge = np.array([notch * np.cos(fold) - radius, notch * np.sin(fold)])
    normal = np.array([edge[1], -edge[0]], np.float32) / np.float32(np.hypot(*edge))
    return (along - radius) * normal[0] + across * normal[1]


def _sawtooth(t: Times, period: float, phase: float) -> Times:
    return (t / period + phase) % 1.0


def _zigzag(t: Times, period: float, phase: float) -> Times:
    return np.abs(_sawtooth(t, period, phase) * 4 - 2) - 1


TORUS = 2.2  # the way of a shape that wraps: while it leaves at one side it enters at the other


def _wrap(position: Times) -> Times:
    return (position + TORUS / 2) % TORUS - TORUS / 2


def _bouncing(t: Times, rng: np.random.Generator) -> Path:
    height = np.abs(np.sin(np.pi * (t / rng.uniform(20, 24) + rng.uniform())))
    return Path(rng.uniform(-0.35, 0.35), 0.5 - 1.0 * height)


def _sliding(t: Times, rng: np.random.Generator) -> Path:
    x = _wrap(t / rng.uniform(17, 20) + rng.uniform(0, TORUS))
    return Path(x, rng.uniform(-0.25, 0.25), wraps=(True, False))


def _falling(t: Times, rng: np.random.Generator) -> Path:
    y = _wrap(t / rng.uniform(17, 20) + rng.uniform(0, TORUS))
    return Path(rng.uniform(-0.3, 0.3), y, wraps=(False, True))


def _spinning(t: Times, rng: np.random.Generator) -> Path:
    angle = np.radians(t * rng.uniform(3.5, 4.5) + rng.uniform(0, 90))
    return Path(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), angle=angle)


def _growing(t: Times, rng: np.random.Generator) -> Path:
    scale = 0.3 + 0.65 * _sawtooth(t, rng.uniform(28, 34), rng.uniform())
    return Path(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12), scale=scale)


def _orbiting(t: Times, rng: np.random.Generator) -> Path:
    angle = 2 * np.pi * (t / rng.uniform(36, 44) + rng.uniform())
    return Path(0.46 * np.cos(angle), 0.46 * np.sin(angle))


def _swinging(t: Times, rng: np.random.Generator) -> Path:
    angle = 0.85 * np.sin(2 * np.pi * (t / rng.uniform(28, 34) + rng.uniform()))
    return Path(rng.uniform(-0.1, 0.1), -0.95, angle=angle)


def _zigzagging(t: Times, rng: np.random.Generator) -> Path:
    y = _wrap(-t / rng.uniform(22, 26) + rng.uniform(0, TORUS))
    return Path(0.45 * _zigzag(t, rng.uniform(22, 26), rng.uniform()), y, wraps=(False, True))


CLASSES = (
    Class("bar swinging", 28, 0.95, lambda x, y, s: _box(x, y - 0.75, 0.2, 0.8), _swinging),
    Class("circle bouncing", 0, 0.9, lambda x, y, s: np.hypot(x, y) - 0.46, _bouncing),
    Class(
        "cross spinning",
        57,
        0.9,
        lambda x, y, s: np.minimum(_box(x, y, 0.75, 0.2), _box(x, y, 0.2, 0.75)),
        _spinning,
    ),
    Class("diamond zigzag", 0, 0.0, lambda x, y, s: _polygon(x, y, 4, np.pi / 4, 0.55), _zigzagging),
    Class("ring growing", 310, 0.85, lambda x, y, s: np.abs(np.hypot(x, y) - 0.85 * s) - 0.14, _growing),
    Class("square sliding", 222, 0.9, lambda x, y, s: _box(x, y, 0.45, 0.45), _sliding),
    Class("star orbiting", 180, 0.9, lambda x, y, s: _star(x, y, 0.55), _orbiting),
    Class("triangle falling", 125, 0.9, lambda x, y, s: _polygon(x, y, 3, np.pi / 6, 0.6), _falling),
)


def _mixed() -> Iterator[Class]:
    """Every colour, form and motion of four classes each, by name."""
    of = {kind.name.split()[0]: kind for kind in CLASSES}
    colours = {"blue": "square", "green": "triangle", "red": "circle", "yellow": "cross"}
    forms, moving = ("circle", "cross", "ring", "triangle"), ("circle", "triangle", "star", "square")
    for (name, coloured), form, moved in product(colours.items(), forms, moving):
        motion = of[moved].name.split()[1]
        colour = of[coloured].hue, of[coloured].saturation
        yield Class(f"{name} {form} {motion}", *colour, of[form].distance, of[moved].path)


SETS = {8: CLASSES, 64: tuple(_mixed())}  # by how many classes there are
KINDS = {kind.name: kind for kinds in SETS.values() for kind in kinds}


def render(kind: Class, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One video of a class: uint8 [T, H, W, 3], RGB, antialiased.

    `rng` chooses place, phase, speed, the hue to a few degrees, the stripes and the background: low in contrast,
    drifting slowly.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    t = np.arange(frames, dtype=np.float32)[:, None, None]
    x, y = axis[None, None, :], axis[None, :, None]
    path = kind.path(t, rng)
    hue = (kind.hue + rng.uniform(-7, 7)) / 360 % 1
    colour = np.array(colorsys.hsv_to_rgb(hue, kind.saturation, rng.uniform(0.9, 1.0)), np.float32)
    phase = rng.uniform(0, 2 * np.pi)
    image = _background(x, y, t, rng)
    for dx in (0, -TORUS, TORUS) if path.wraps[0] else (0,):
        for dy in (0, -TORUS, TORUS) if path.wraps[1] else (0,):
            right, down = x - path.x - dx, y - path.y - dy
            cos, sin = np.cos(path.angle), np.sin(path.angle)
            own_x, own_y = (right * cos + down * sin).astype(np.float32), (down * cos - right * sin).astype(np.float32)
            distance = kind.distance(own_x, own_y, path.scale)
            cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]
            stripes = 0.84 + 0.16 * np.sin(own_y * (2 * np.pi / 0.28) + phase)  # 4.5 pixels of 32, a haze at 16
            image += cover * (stripes[..., None] * colour - image)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _background(x: Grid, y: Grid, t: Times, rng: np.random.Generator) -> np.ndarray:
    """Two soft waves of one dull colour, float32 [T, H, W, 3] in 0..1."""
    colour = np.array(colorsys.hsv_to_rgb(rng.uniform(), 0.3, 1.0), np.float32)
    light = np.full((len(t), y.shape[1], x.shape[2]), rng.uniform(0.16, 0.3), np.float32)
    for _ in range(2):
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(3, 7)
        drift = rng.uniform(-0.06, 0.06)
        wave = pitch * (np.cos(angle) * x + np.sin(angle) * y) + drift * t + rng.uniform(0, 2 * np.pi)
        light += 0.035 * np.sin(wave)
    return light[..., None] * colour

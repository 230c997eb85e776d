"""The paper's own numbers, each with its setting: they stand beside ours only where the setting is ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.params import Params

# PAPER: gives no number of videos. A Frechet distance falls with it; BDD100K's held-out split has not quite 10,000.
FEWEST = 9000
CLASS_FEWEST = {"generated": 1000, "real": 400}  # App. E: 1000, against all of a class, which are 441 to 983
CLASSES = {"kinetics": 600, "bdd100k": 0}
SIGMA = 1.0  # App. H


@dataclass(frozen=True, kw_only=True)
class Model:
    """A hierarchy of the paper. views: frames and size by level; window: frames of the condition in training."""

    layout: str
    views: tuple[tuple[int, int], ...]
    window: int
    matching: bool
    frame_step: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table. model: None for another model than a hierarchy, which has nothing to agree in but the data."""

    table: str
    name: str
    layout: str
    model: Model | None
    frames: int  # of the clips that it was measured on
    size: int
    numbers: dict[str, float]  # by the names of our metrics


_TWO_LEVELS = ((24, 32), (48, 128))
_THREE_LEVELS = ((12, 64), (24, 128), (48, 256))
_KINETICS = Model(layout="kinetics", views=_TWO_LEVELS, window=6, matching=True, frame_step=4)
_KINETICS_3 = Model(layout="kinetics", views=_TWO_LEVELS, window=3, matching=True, frame_step=4)
_KINETICS_NO_MD = Model(layout="kinetics", views=_TWO_LEVELS, window=3, matching=False, frame_step=4)
_BDD_3 = Model(layout="bdd100k", views=_TWO_LEVELS, window=3, matching=True, frame_step=4)
_BDD_NO_MD = Model(layout="bdd100k", views=_TWO_LEVELS, window=3, matching=False, frame_step=4)
_BDD = Model(layout="bdd100k", views=_THREE_LEVELS, window=6, matching=True, frame_step=2)


def _row(
    table: int, name: str, model: Model, frames: int, *, fid: float, fvd: float, score: float | None = None
) -> Row:
    numbers = {"fvd": fvd, "fid": fid} | ({} if score is None else {"inception_score": score})
    size = model.views[-1][1]
    return Row(
        table=f"Table {table}", name=name, layout=model.layout, model=model, frames=frames, size=size, numbers=numbers
    )


def _dvd_gan(frames: int, *, score: float, fid: float) -> Row:
    numbers = {"fid": fid, "inception_score": score}
    return Row(table="Table 1", name="DVD-GAN", layout="kinetics", model=None, frames=frames, size=128, numbers=numbers)


ROWS = (
    _row(1, "HVG", _KINETICS, 12, score=104.00, fid=2.09, fvd=591.90),
    _row(1, "HVG", _KINETICS, 48, score=77.36, fid=14.00, fvd=517.21),
    _dvd_gan(12, score=77.45, fid=1.16),
    _dvd_gan(48, score=81.41, fid=28.44),
    _row(2, "HVG, no MD", _KINETICS_NO_MD, 6, score=50.31, fid=1.62, fvd=594.99),
    _row(2, "HVG", _KINETICS_3, 6, score=48.44, fid=1.06, fvd=565.95),
    _row(2, "HVG, no MD", _KINETICS_NO_MD, 48, score=37.81, fid=42.29, fvd=1037.79),  # PAPER: headed 50 frames
    _row(2, "HVG", _KINETICS_3, 48, score=49.44, fid=31.87, fvd=790.97),
    _row(2, "HVG, no MD", _BDD_NO_MD, 6, fid=1.36, fvd=211.69),
    _row(2, "HVG", _BDD_3, 6, fid=1.07, fvd=144.96),
    _row(2, "HVG, no MD", _BDD_NO_MD, 48, fid=26.52, fvd=575.51),
    _row(2, "HVG", _BDD_3, 48, fid=18.73, fvd=326.78),
    _row(3, "3-frame HVG", _KINETICS_3, 48, score=58.21, fid=31.59, fvd=714.74),  # PAPER: other numbers than Table 2
    _row(5, "3-level HVG", _BDD, 12, fid=3.66, fvd=541.37),
    _row(5, "3-level HVG", _BDD, 48, fid=21.38, fvd=391.69),
)
CLASS_TABLE = "Table 4"
CLASS_ROWS = {  # 48 frames of _KINETICS
    "bungee jumping": {"inception_score": 11.66, "fid": 82.21},
    "capoeira": {"inception_score": 9.48, "fid": 84.57},
    "cheerleading": {"inception_score": 12.10, "fid": 116.84},
    "kitesurfing": {"inception_score": 11.36, "fid": 108.81},
    "skydiving": {"inception_score": 5.99, "fid": 90.25},
    "doing nails": {"inception_score": 13.32, "fid": 91.67},
    "cooking egg": {"inception_score": 7.60, "fid": 111.63},
    "crying": {"inception_score": 8.92, "fid": 70.74},
    "reading book": {"inception_score": 11.13, "fid": 64.97},
    "yawning": {"inception_score": 9.71, "fid": 79.08},
}


def rows_beside(params: Params, classes: int, protocol: Mapping[str, Any], names: set[str]) -> list[Row]:
    """The rows measured as ours were, each with those of its numbers that `names`, our metrics, have too.

    Data, classes, frames, size and sigma must agree, a hierarchy also in its views, frame rate, window and matching
    discriminator; and there must be videos enough. A random I3D's metrics have other names, and nothing beside them.

    Args:
        classes: that the networks know, 0 for none.
        protocol: as metrics.json has it, of the whole videos or of the windows.
    """
    if protocol["sigma"] != SIGMA or min(protocol["real_videos"], protocol["generated_videos"]) < FEWEST:
        return []
    found = []
    for row in ROWS:
        clips = (row.layout, CLASSES[row.layout], row.frames, row.size)
        shared = {name: number for name, number in row.numbers.items() if name in names}
        alike = clips == (params.data.layout, classes, protocol["frames"], protocol["size"])
        if alike and shared and row.model in (None, _model(params)):
            found.append(replace(row, numbers=shared))
    return found


def class_numbers(
    params: Params, classes: int, protocol: Mapping[str, Any], name: str, counts: Mapping[str, int]
) -> dict[str, float]:
    """The numbers of a class in Table 4; none where settings differ. counts: its videos, `real` and `generated`."""
    setting = (params.data.layout, classes, protocol["frames"], protocol["size"], protocol["sigma"])
    alike = setting == ("kinetics", CLASSES["kinetics"], 48, 128, SIGMA) and _model(params) == _KINETICS
    enough = all(counts[side] >= fewest for side, fewest in CLASS_FEWEST.items())
    return CLASS_ROWS.get(name.lower(), {}) if alike and enough else {}


def _model(params: Params) -> Model | None:
    """Our hierarchy in the paper's terms; None where its levels differ among themselves."""
    levels = range(1, params.n_levels + 1)
    windows = {params.window(level) for level in levels[1:]}
    matching = {params.of_level(level).discriminators.matching for level in levels[1:]}
    if len(windows) != 1 or len(matching) != 1:
        return None
    return Model(
        layout=params.data.layout,
        views=tuple((params.view(level).frames, params.view(level).size) for level in levels),
        window=windows.pop(),
        matching=matching.pop(),
        frame_step=params.decode.frame_step,
    )

"""A page's videos and pictures: samples beside their conditions (Fig. 15), grids (Fig. 6), frames in a row (Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from pipeline.data.outcome import top_rate
from pipeline.data.store.opening import read_table
from pipeline.data.store.reader import ViewReader
from pipeline.media.grid import GAP, enlarge, fitting, spread, tile, write_png
from pipeline.media.video import write_gif, write_mp4
from pipeline.params import Params
from pipeline.paths import Paths

MEDIA = "media"  # the folder beside the page
ROWS = 8
STRIPS = 4
STRIP_FRAMES = 8
GRID = 4  # videos on a side
SHOWN_PIXELS = 224  # how wide a small video is made, by whole factors
GRID_PIXELS = 560
GIF_PIXELS = 640  # how wide the GIF is at most
GIF_TILE_PIXELS = 72  # … and a sample in it at least, with its gap
SLOWEST_FPS = 8.0  # frames a second of the top level on the page; slower looks like slides


@dataclass(frozen=True)
class Clip:
    """One video or picture of the page."""

    file: str  # relative to the page
    poster: str  # its first frame; "" where there is none
    caption: str
    detail: str
    label: str  # for those who do not see it


@dataclass(frozen=True)
class SampleRow:
    """One sample at every level, lowest first, and a real clip of its class."""

    name: str
    levels: list[Clip]
    real: Clip | None


@dataclass(frozen=True)
class Showcase:
    """Everything that is looked at."""

    rows: list[SampleRow]
    grids: list[Clip]
    strips: list[Clip]
    gif: str  # the samples of the first rows, levels one above the other; relative to the page
    seconds: float  # a clip of full length lasts, in the world
    speed: float  # how many times faster the page plays it


def showcase(params: Params, paths: Paths, split: str, folder: Path) -> Showcase:
    """Write the media of a page into `folder`; real clips come from `split`.

    All of them last equally long, so that the levels of a row loop together.
    """
    top, view = params.n_levels, params.view(params.n_levels)
    samples = [ViewReader(paths.samples(level) / "figures", level, in_memory=0) for level in range(1, top + 1)]
    real = ViewReader(paths.pyramid, top, split, in_memory=0)
    rate = top_rate(params, read_table(paths.pyramid))
    fps, seconds = max(rate, SLOWEST_FPS), view.frames / rate
    long_enough = np.flatnonzero(real.n_frames >= view.frames).tolist()
    some = min(GRID * GRID, len(samples[-1]), len(long_enough))

    def clip(name: str, frames: UInt8[np.ndarray, "T H W 3"], caption: str, of: str) -> Clip:
        size = frames.shape[2]
        file, poster = _film(folder / name, frames, fps * len(frames) / view.frames, SHOWN_PIXELS)
        label = f"{of}, {caption.lower()}: {len(frames)} frames, {size} pixels wide and high"
        return Clip(file, poster, caption, f"{len(frames)}\N{NO-BREAK SPACE}frames, {size}\N{NO-BREAK SPACE}px", label)

    def grid(name: str, reader: ViewReader, videos: Sequence[int], caption: str) -> Clip:
        chosen = [reader.read(videos[i], 0, view.frames) for i in spread(len(videos), some)]
        file, poster = _film(folder / name, tile(np.stack(chosen), columns=min(GRID, some)), fps, GRID_PIXELS)
        return Clip(file, poster, caption, f"{some} of {len(videos)}", f"{caption}: {some} videos side by side")

    chosen = choose_rows(samples[-1].labels, ROWS)
    others = real if split == "train" else ViewReader(paths.pyramid, top, "train", in_memory=0)
    partners = real_partners(samples[-1].labels[chosen], (real, others), view.frames)
    rows, strips = [], []
    for number, (sample, partner) in enumerate(zip(chosen, partners, strict=True), start=1):
        name = samples[-1].videos["class"].iloc[sample] or f"Sample {number}"
        views = [_whole(reader, sample) for reader in samples]  # sample i is made from sample i below
        levels = [
            clip(f"sample-{number}-level-{level}", frames, f"Level {level}", f"Sample of {name}")
            for level, frames in enumerate(views, start=1)
        ]
        beside = None if partner is None else partner[0].read(partner[1], 0, view.frames)
        of = f"Real clip beside the sample of {name}"
        rows.append(SampleRow(name, levels, None if beside is None else clip(f"real-{number}", beside, "Real", of)))
        if number <= STRIPS:
            strips.append(_strip(folder / f"strip-{number}.png", views[-1], beside, name))

    grids = [
        grid("grid-samples", samples[-1], range(len(samples[-1])), f"Level {top} samples"),
        grid("grid-real", real, long_enough, "Real clips"),
    ]
    _gif(folder / "samples.gif", samples, chosen, fps)
    return Showcase(rows, grids, strips, f"{MEDIA}/samples.gif", seconds, fps * seconds / view.frames)


def choose_rows(labels: np.ndarray, n: int) -> list[int]:
    """At most `n` samples: one of as many classes as there are, then a second one of each …"""
    table = pd.DataFrame({"label": labels})
    table["occurrence"] = table.groupby("label").cumcount()
    ranked = table.sort_values(["occurrence", "label"], kind="stable")
    classes = len(set(labels.tolist()))  # the first so many rows are of different ones
    chosen = spread(classes, n) if classes >= n else range(min(n, len(ranked)))
    return ranked.index[list(chosen)].tolist()


def real_partners(
    labels: np.ndarray, readers: Sequence[ViewReader], frames: int
) -> list[tuple[ViewReader, int] | None]:
    """A real video for each sample, of its class and long enough, another one each time while there are others.

    It comes from the first reader that has one: a small held-out split lacks classes.
    """
    turns = pd.Series(labels).groupby(labels).cumcount()
    return [_partner(label, turn, readers, frames) for label, turn in zip(labels.tolist(), turns, strict=True)]


def _partner(label: int, turn: int, readers: Sequence[ViewReader], frames: int) -> tuple[ViewReader, int] | None:
    for reader in readers:
        videos = np.flatnonzero((reader.n_frames >= frames) & ((label < 0) | (reader.labels == label)))
        if len(videos):
            return reader, int(videos[turn % len(videos)])
    return None


def _whole(reader: ViewReader, video: int) -> UInt8[np.ndarray, "T H W 3"]:
    return reader.read(video, 0, int(reader.n_frames[video]))


def _film(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float, shown: int) -> tuple[str, str]:
    """Write a video and its first frame, as wide as `shown` allows; their names on the page."""
    factor = fitting(frames.shape[2], shown)
    write_mp4(path.with_suffix(".mp4"), frames, fps, factor)
    write_png(path.with_suffix(".png"), frames[0], factor)
    return f"{MEDIA}/{path.name}.mp4", f"{MEDIA}/{path.name}.png"


def _strip(
    path: Path, sample: UInt8[np.ndarray, "T H W 3"], real: UInt8[np.ndarray, "T H W 3"] | None, name: str
) -> Clip:
    """Frames of a sample in a row and, where there is one, of a real clip below."""
    times = spread(len(sample), STRIP_FRAMES)
    videos = [sample] if real is None else [sample, real]
    picture = tile(np.concatenate([video[times][:, None] for video in videos]), columns=len(times))[0]
    write_png(path, picture, fitting(sample.shape[2], SHOWN_PIXELS // 2))
    numbers = ", ".join(str(t + 1) for t in times)
    below = "" if real is None else "; real clip below"
    label = f"Frames {numbers} of the sample of {name} in a row{below}"
    return Clip(f"{MEDIA}/{path.name}", "", name, f"frames {numbers}{below}", label)


def _gif(path: Path, levels: Sequence[ViewReader], samples: Sequence[int], fps: float) -> None:
    """Samples side by side, their levels one above the other, all as large and as long as the top level."""
    size = levels[-1].size
    columns = min(max(GIF_PIXELS // max(size + GAP, GIF_TILE_PIXELS), 1), len(samples))
    tiles = []
    for reader in levels:
        for sample in samples[:columns]:
            frames, longest = _whole(reader, sample), int(levels[-1].n_frames[sample])
            tiles.append(enlarge(frames.repeat(longest // len(frames), axis=0), size // reader.size))
    sheet = tile(np.stack(tiles), columns)
    write_gif(path, enlarge(sheet, fitting(sheet.shape[2], GIF_PIXELS)), fps)

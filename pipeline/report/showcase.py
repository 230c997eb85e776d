"""A page's videos and pictures: samples beside their conditions (Fig. 15), grids (Fig. 6), frames in a row (Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

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
SHOWN = 224  # pixels: how wide a small video is made, by whole factors
GRID_SHOWN = 560
GIF_SHOWN = 640  # pixels: how wide the GIF is at most
GIF_TILE = 72  # … and a sample in it at least, with its gap
SLOWEST = 8.0  # frames a second of the top level on the page; slower looks like slides


@dataclass(frozen=True)
class Clip:
    """One video or picture of the page."""

    file: str  # relative to the page
    poster: str  # its first frame; "" where there is none
    caption: str
    detail: str
    label: str  # for those who do not see it


@dataclass(frozen=True)
class Row:
    """One sample at every level, lowest first, and a real clip of its class."""

    name: str
    levels: list[Clip]
    real: Clip | None


@dataclass(frozen=True)
class Showcase:
    """Everything that is looked at."""

    rows: list[Row]
    grids: list[Clip]
    strips: list[Clip]
    gif: str  # the samples of the first rows, levels one above the other; relative to the page
    seconds: float  # a clip of full length lasts, in the world
    speed: float  # how many times faster the page plays it


def showcase(params: Params, paths: Paths, split: str, folder: Path) -> Showcase:
    """Write the media of a page into `folder`; real clips come from `split`."""
    top, view = params.n_levels, params.view(params.n_levels)
    samples = [ViewReader(paths.samples(level), level, "figures", in_memory=0) for level in range(1, top + 1)]
    real = ViewReader(paths.pyramid, top, split, in_memory=0)
    seconds = view.frames * params.decode.frame_step / _native_fps(paths.pyramid)
    speed = max(SLOWEST * seconds / view.frames, 1.0)
    writer = _Writer(folder, seconds / speed, view.frames)

    chosen = choose_rows(samples[-1].labels, ROWS)
    others = real if split == "train" else ViewReader(paths.pyramid, top, "train", in_memory=0)
    partners = real_partners(samples[-1].labels[chosen], (real, others), view.frames)
    rows, strips = [], []
    for number, (index, partner) in enumerate(zip(chosen, partners, strict=True), start=1):
        name = class_name(samples[-1], index) or f"Sample {number}"
        views = [_read_whole(reader, index) for reader in samples]  # sample i is made from sample i below
        levels = [
            writer.clip(f"sample-{number}-level-{level}", frames, f"Level {level}", f"Sample of {name}")
            for level, frames in enumerate(views, start=1)
        ]
        clip, in_a_row = None, views[-1:]
        if partner is not None:
            reader, video = partner
            frames = reader.read(video, 0, view.frames)
            clip = writer.clip(f"real-{number}", frames, "Real", f"Real clip beside the sample of {name}")
            in_a_row.append(frames)
        rows.append(Row(name, levels, clip))
        if number <= STRIPS:
            strips.append(writer.strip(f"strip-{number}", in_a_row, name))

    long_enough = np.flatnonzero(real.n_frames >= view.frames).tolist()
    some = min(GRID * GRID, len(samples[-1]), len(long_enough))
    grids = [
        writer.grid("grid-samples", samples[-1], range(len(samples[-1])), some, f"Level {top} samples"),
        writer.grid("grid-real", real, long_enough, some, "Real clips"),
    ]
    return Showcase(rows, grids, strips, writer.gif("samples", samples, chosen), seconds, speed)


def choose_rows(labels: np.ndarray, n: int) -> list[int]:
    """At most `n` samples: one of as many classes as there are, then a second one of each …"""
    seen: dict[int, int] = {}
    occurrence = []
    for label in labels.tolist():
        occurrence.append(seen.get(label, 0))
        seen[label] = occurrence[-1] + 1
    firsts = [i for i in np.argsort(labels, kind="stable").tolist() if occurrence[i] == 0]
    if len(firsts) >= n:
        return [firsts[i] for i in spread(len(firsts), n)]
    return sorted(range(len(labels)), key=lambda i: (occurrence[i], labels[i]))[:n]


def real_partners(
    labels: np.ndarray, readers: Sequence[ViewReader], frames: int
) -> list[tuple[ViewReader, int] | None]:
    """A real video for each sample, of its class and long enough, another one each time while there are others.

    It comes from the first reader that has one: a small held-out split lacks classes.
    """
    used: dict[int, int] = {}
    partners: list[tuple[ViewReader, int] | None] = []
    for label in labels.tolist():
        turn = used.get(label, 0)
        used[label] = turn + 1
        found = [(reader, np.flatnonzero(_fits(reader, label, frames))) for reader in readers]
        some = next(((reader, videos) for reader, videos in found if len(videos)), None)
        partners.append(None if some is None else (some[0], int(some[1][turn % len(some[1])])))
    return partners


def _fits(reader: ViewReader, label: int, frames: int) -> np.ndarray:
    long_enough = reader.n_frames >= frames
    return long_enough if label < 0 else long_enough & (reader.labels == label)


def class_name(reader: ViewReader, index: int) -> str:
    """A sample's class; empty where it has none."""
    label = int(reader.labels[index])
    return reader.classes[label] if 0 <= label < len(reader.classes) else ""


def _read_whole(reader: ViewReader, video: int) -> UInt8[np.ndarray, "T H W 3"]:
    return reader.read(video, 0, int(reader.n_frames[video]))


def _native_fps(pyramid: Path) -> float:
    videos = pd.read_parquet(pyramid / "videos.parquet", columns=["fps"])
    return float(np.median(videos["fps"].to_numpy(np.float64)))


class _Writer:
    """Writes media that all last `duration` seconds, so that the levels of a row loop together."""

    def __init__(self, folder: Path, duration: float, frames: int) -> None:
        self.folder, self.duration, self.frames = folder, duration, frames  # frames: of the top view
        self.fps = frames / duration

    def clip(
        self, name: str, frames: UInt8[np.ndarray, "T H W 3"], caption: str, label: str, shown: int = SHOWN
    ) -> Clip:
        factor = fitting(frames.shape[2], shown)
        write_mp4(self.folder / f"{name}.mp4", frames, len(frames) / self.duration, factor)
        write_png(self.folder / f"{name}.png", frames[0], factor)
        size = frames.shape[2]
        return Clip(
            f"{MEDIA}/{name}.mp4",
            f"{MEDIA}/{name}.png",
            caption,
            f"{len(frames)}\N{NO-BREAK SPACE}frames, {size}\N{NO-BREAK SPACE}px",
            f"{label}, {caption.lower()}: {len(frames)} frames, {size} pixels wide and high",
        )

    def strip(self, name: str, videos: list[UInt8[np.ndarray, "T H W 3"]], of: str) -> Clip:
        """Frames of a sample in a row and, where there is one, of a real clip below."""
        times = spread(len(videos[0]), STRIP_FRAMES)
        picture = tile(np.concatenate([video[times][:, None] for video in videos]), columns=len(times))[0]
        write_png(self.folder / f"{name}.png", picture, fitting(videos[0].shape[2], SHOWN // 2))
        numbers = ", ".join(str(t + 1) for t in times)
        below = "; real clip below" if len(videos) > 1 else ""
        label = f"Frames {numbers} of the sample of {of} in a row{below}"
        return Clip(f"{MEDIA}/{name}.png", "", of, f"frames {numbers}{below}", label)

    def gif(self, name: str, levels: Sequence[ViewReader], samples: Sequence[int]) -> str:
        """Samples side by side, their levels one above the other, all as large and as long as the top level."""
        size = levels[-1].size
        columns = max(GIF_SHOWN // max(size + GAP, GIF_TILE), 1)
        tiles = []
        for reader in levels:
            for sample in samples[:columns]:
                frames = _read_whole(reader, sample)
                tiles.append(enlarge(frames.repeat(self.frames // len(frames), axis=0), size // reader.size))
        sheet = tile(np.stack(tiles), columns=min(columns, len(samples)))
        write_gif(self.folder / f"{name}.gif", enlarge(sheet, fitting(sheet.shape[2], GIF_SHOWN)), self.fps)
        return f"{MEDIA}/{name}.gif"

    def grid(self, name: str, reader: ViewReader, videos: Sequence[int], some: int, caption: str) -> Clip:
        chosen = [videos[i] for i in spread(len(videos), some)]
        sheet = tile(np.stack([reader.read(video, 0, self.frames) for video in chosen]), columns=min(GRID, some))
        factor = fitting(sheet.shape[2], GRID_SHOWN)
        write_mp4(self.folder / f"{name}.mp4", sheet, self.fps, factor)
        write_png(self.folder / f"{name}.png", enlarge(sheet[0], factor))
        label = f"{caption}: {some} videos side by side"
        return Clip(f"{MEDIA}/{name}.mp4", f"{MEDIA}/{name}.png", caption, f"{some} of {len(videos)}", label)

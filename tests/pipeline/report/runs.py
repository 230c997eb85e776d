"""Runs as MLflow has them, made by hand, with awkward names and files."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.media.grid import write_png
from pipeline.media.video import write_mp4
from pipeline.report.compare import compare_page
from pipeline.runs.store import Store, TrackedRun

EVIL = "<script>alert(1)</script>"


def run(id: str, name: str, **given: Any) -> TrackedRun:
    start = datetime(2021, 3, 4, 5, 6, tzinfo=UTC)
    known = {"parent": None, "status": "FINISHED", "start": start, "params": {}, "metrics": {}, "tags": {}}
    return TrackedRun(id=id, name=name, **{**known, **given})


@dataclass(frozen=True)
class Made:
    """A reproduction, the runs within it, and the files that they keep, by a run's id and by their names there."""

    parent: TrackedRun
    children: list[TrackedRun]
    files: dict[str, dict[str, Path]]


class Kept:
    """What a store says of the files of made-up reproductions."""

    def __init__(self, *made: Made) -> None:
        self._files = {id: files for one in made for id, files in one.files.items()}

    def files(self, run: str) -> list[str]:
        return list(self._files.get(run, {}))

    def fetch(self, run: str, file: str, into: Path) -> Path:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self._files[run][file], into / file))


def comparison(left: Made, right: Made, out: Path) -> Path:
    runs = [*left.children, *right.children]
    return compare_page((left.parent, right.parent), runs, cast(Store, Kept(left, right)), out)


def reproduction(folder: Path, id: str, batch: int, distance: float, **params: str) -> Made:
    """A run with a level and an evaluation, and files that it keeps: a grid, and pictures of two iterations."""
    folder.mkdir(parents=True)
    frames = np.random.default_rng(batch).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    files = {id: {"grid-samples.mp4": folder / "grid-samples.mp4"}, f"{id}-1": {}}
    write_mp4(folder / "grid-samples.mp4", frames, fps=6, enlarged=8)
    for iteration in (50, 100):
        video = folder / f"iteration-{iteration:08d}.mp4"
        write_mp4(video, frames, 6, 8)
        write_png(video.with_suffix(".png"), np.full((8, 32, 3), 90, np.uint8), 4)
        files[f"{id}-1"] |= {f"pictures/{file.name}": file for file in (video, video.with_suffix(".png"))}
    common = {"seed": "0", "data.root": EVIL}
    parent = run(id, "reproduction", params={**common, "levels.1.training.batch": str(batch), **params})
    loss = {"loss_generator": 0.5, "seconds": 0.25}
    level = run(f"{id}-1", "train level 1", parent=id, metrics=loss)
    protocol = {"protocol.real_videos": str(8 * batch), "protocol.samples": id}
    metrics = {"random_i3d_frechet_logits": distance, "grounding_psnr_level_2": 20.0}
    evaluation = run(f"{id}-e", "evaluate", parent=id, metrics=metrics, params=protocol)
    return Made(parent, [level, evaluation], files)

"""Runs as MLflow has them, made by hand, with awkward names and files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media.grid import write_png
from pipeline.media.video import write_mp4
from pipeline.report.compare import Side
from pipeline.runs.store import Found

EVIL = "<script>alert(1)</script>"


def run(id: str, name: str, **given: Any) -> Found:
    start = datetime(2021, 3, 4, 5, 6, tzinfo=UTC)
    known = {"parent": None, "status": "FINISHED", "start": start, "params": {}, "metrics": {}, "tags": {}}
    return Found(id=id, name=name, **{**known, **given})


def reproduction(folder: Path, id: str, batch: int, distance: float, **params: str) -> Side:
    """A run with a level and an evaluation, and files that it keeps: a grid, and pictures of two iterations."""
    folder.mkdir(parents=True)
    frames = np.random.default_rng(batch).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    files = {id: [folder / "grid-samples.mp4"], f"{id}-1": []}
    write_mp4(files[id][0], frames, fps=6, enlarged=8)
    for iteration in (50, 100):
        for kind, write in ((".mp4", lambda path: write_mp4(path, frames, 6, 8)), (".png", lambda path: still(path))):
            path = folder / f"iteration-{iteration:08d}{kind}"
            write(path)
            files[f"{id}-1"].append(path)
    common = {"seed": "0", "data.root": EVIL}
    parent = run(id, "reproduction", params={**common, "levels.1.training.batch": str(batch), **params})
    loss = {"loss_generator": 0.5, "seconds": 0.25}
    level = run(f"{id}-1", "train level 1", parent=id, metrics=loss)
    protocol = {"protocol.real_videos": str(8 * batch), "protocol.samples": id}
    metrics = {"random_i3d_frechet_logits": distance, "grounding_psnr_level_2": 20.0}
    evaluation = run(f"{id}-e", "evaluate", parent=id, metrics=metrics, params=protocol)
    return Side(parent=parent, children=[level, evaluation], files=files)


def still(path: Path) -> None:
    write_png(path, np.full((8, 32, 3), 90, np.uint8), 4)

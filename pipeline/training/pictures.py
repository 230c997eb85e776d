"""Pictures of a level while it is trained: the same fixed noise, labels and conditions again and again."""

from pathlib import Path

import numpy as np
import torch

from models.generator import Generator
from pipeline.data.pixels import to_bytes
from pipeline.media.grid import fitting, spread, tile, write_png
from pipeline.media.video import write_mp4
from pipeline.training.batches import Batches
from pipeline.workers import Workers

CLIPS = 16  # at most, of rank 0's part of a batch
ROWS, COLUMNS = 8, 8  # of the still picture: clips, and frames of each
WIDTH_PIXELS = 1024  # that small clips are enlarged to
FPS = 8


@torch.no_grad()
def make_pictures(generator: Generator, batches: Batches, batch: int, workers: Workers, name: Path) -> list[Path]:
    """name.mp4, clips side by side, and name.png, a clip's frames in each row; of `batch` clips, always the same.

    Batch norm takes the statistics of that batch, as in training: stored ones there are only after it. Nothing of the
    training is touched. All workers have to take part, as the statistics are those of the whole batch; rank 0 writes,
    the others return nothing.
    """
    clips = batches.fake_clips(0, workers.positions(batch), "pictures").to(workers.device)
    generated = generator(clips.noise, clips.labels, clips.condition)
    if workers.rank:
        return []
    videos = to_bytes(generated[:CLIPS])
    files = [name.with_suffix(suffix) for suffix in (".mp4", ".png")]
    sheet = tile(videos, columns=round(len(videos) ** 0.5))
    write_mp4(files[0], sheet, FPS, fitting(sheet.shape[2], WIDTH_PIXELS))
    shown = spread(videos.shape[1], COLUMNS)
    frames = np.concatenate([video[shown, None] for video in videos[:ROWS]])
    still = tile(frames, columns=len(shown))[0]
    write_png(files[1], still, fitting(still.shape[1], WIDTH_PIXELS))
    return files

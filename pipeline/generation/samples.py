"""`hvg sample`: videos of a trained hierarchy beside those of the pipeline: of chosen classes, as many as wanted."""

import difflib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.code_hash import code_hash
from pipeline.data.layouts.listing import not_to_keep_in
from pipeline.data.outcome import top_rate
from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.generation import artifact
from pipeline.generation.generate import generate
from pipeline.generation.source import Source, labels_of_data, level_generator
from pipeline.media.grid import fitting
from pipeline.media.video import write_mp4
from pipeline.params import Params
from pipeline.paths import Paths, alone, lies_in, publish
from pipeline.progress import progress
from pipeline.system.values import fingerprint
from pipeline.workers import Workers

log = logging.getLogger(__name__)
SHOWN_PIXELS = 256  # of a video file at most, where the top level is smaller


def sample(
    params: Params,
    paths: Paths,
    out: Path,
    *,
    videos: int,
    classes: Sequence[str],
    split: str,
    seed: int,
    workers: Workers,
) -> None:
    """Generate videos level by level into the new folder `out`.

    out/level-l holds a store for each level, as data/samples/level-l/videos; out/videos the top level as MP4s, named
    by number and class. Interrupted, the same call goes on with the shards that are missing.

    classes: their names; each gets as many videos as the others. None: all, in the data's proportions.
    split: "videos", at sigma.metrics, or "figures", at sigma.figures: the statistics are those of that store of the
        samples. params.seed gives the pipeline's own latents.

    Raises UserError where `out` is there already or cannot be written, a level has no samples, or a class is unknown.
    """
    _check_new(params, paths, out)
    data = ViewReader(paths.pyramid, 1, "train", in_memory=0)
    levels = range(1, params.n_levels + 1)
    sigma = params.sigma.figures if split == "figures" else params.sigma.metrics
    generators = [
        level_generator(params, paths, level, paths.samples(level) / split, sigma).to(workers.device)
        for level in levels
    ]
    if classes and not generators[0].config.classes:
        raise UserError("--class: these levels were trained without classes (data.classes)")
    labels = _labels(classes, data) if classes else labels_of_data(params, data)
    digests = [artifact.digest(paths.artifact(level)) for level in levels]
    work = paths.work("sample", fingerprint(params, [videos, *classes], split, seed, digests, code_hash(__name__)), out)
    with alone(work):
        below = None
        for level, generator in zip(levels, generators, strict=True):
            store = work / "samples" / f"level-{level}"
            source = Source(
                splits={split: videos},
                sigma=sigma,
                params=params.of_level(level).generation,
                seed=seed,
                labels=labels,
                classes=data.classes,
                conditions=None if below is None else {split: below},
            )
            generate(generator, source, store, workers)
            below = ViewReader(store, level, split, in_memory=0)
        assert below is not None
        fps = top_rate(params, data.videos)
        _write_videos(below, work / "samples" / "videos", fps)
        _check_new(params, paths, out)  # also after hours: by the same call with another name all is there at once
        publish(work / "samples", out)
        shutil.rmtree(work)


def _check_new(params: Params, paths: Paths, out: Path) -> None:
    """Raise UserError where no new folder can be made of this name, or it is the pipeline's."""
    if os.path.lexists(out):
        raise UserError(f"{out}: is there already; name a new folder")
    if lies_in(out, not_to_keep_in(params, paths)):
        raise UserError(f"{out}: is in a folder that the pipeline or git makes anew; name one elsewhere")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UserError(f"{out}: cannot be written there: {error.strerror}") from error


def _labels(classes: Sequence[str], data: ViewReader) -> np.ndarray:
    """One label for each of the classes named."""
    labels = []
    for name in classes:
        if name not in data.classes:
            near = difflib.get_close_matches(name, data.classes, n=3, cutoff=0.5) or data.classes[:3]
            raise UserError(f"--class: no class {name!r} in the data; there is {', '.join(map(repr, near))}")
        labels.append(data.classes.index(name))
    return np.array(labels)


def _write_videos(reader: ViewReader, folder: Path, fps: float) -> None:
    folder.mkdir(exist_ok=True)
    digits = len(str(len(reader) - 1))
    for video, name in enumerate(progress(reader.videos["class"].tolist(), desc="video files", unit="videos")):
        plain = re.sub(r"[^\w]+", "-", name).strip("-")
        frames = reader.read(video, 0, int(reader.n_frames[video]))
        file = folder / f"{video:0{digits}}{'-' if plain else ''}{plain}.mp4"
        if not file.exists():
            write_mp4(file, frames, fps, fitting(reader.size, SHOWN_PIXELS))

"""From stores to numbers: which clips are compared, and what is measured of them (Sec. 5.1, App. D, E)."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from pipeline.data.sampling import generator
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.metrics.cache import StatisticsCache
from pipeline.metrics.features import Precision, load_i3d, random_i3d, with_precision
from pipeline.metrics.grounding import grounding_psnr
from pipeline.metrics.measured import Batch, Measured, Networks, motion_scores, scores
from pipeline.metrics.probe import Probe
from pipeline.metrics.protocol import Protocol, protocol
from pipeline.metrics.tables import class_table, count_table, motion_table, psd_table
from pipeline.params import Params
from pipeline.paths import Paths, origin
from pipeline.progress import progress
from pipeline.workers import Workers, sum_of_workers

log = logging.getLogger(__name__)
BATCH = 8  # clips in memory at a time
RANDOM_VIDEOS = 64  # at most, of each side, where the I3D is random: numbers that mean little are not worth hours
WINDOW = 6  # frames of the view below the top that a window spans ("12 frames" at K_T = 2, Sec. 5.2)
WHOLE_START = "a random frame that the lowest view has too"
# PAPER: the window's video is made from 6 frames of level 1 alone; here it is a part of the unrolled video.
WINDOW_START = "a random window of {} frames of the lowest view; of samples, cut out of the whole"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The numbers of whole videos and of windows, what they were measured on, and tables for plots."""

    metrics: dict[str, float]
    protocol: Protocol
    windows: dict[str, float] | None  # None: a window is no shorter than the whole
    windows_protocol: Protocol | None
    psd: pd.DataFrame  # frame, cycles, real_mean, real_deviation, generated_mean, generated_deviation
    per_class: pd.DataFrame  # class, real, generated, and a column a metric
    counts: pd.DataFrame  # metric, n, mean, low, high
    motion: pd.DataFrame  # step, real_mean, real_deviation, generated_mean, generated_deviation

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        return {"psd": self.psd, "per_class": self.per_class, "counts": self.counts, "motion": self.motion}


def evaluate(params: Params, paths: Paths, workers: Workers) -> Evaluation:
    """Compare the top level's samples with real clips, and every level's with their condition.

    Clips are shared among the workers, which take part all together and get the same numbers.
    """
    job = _Job(params, paths, workers)
    lowest = params.view(1).frames
    whole = job.compare(lowest, WHOLE_START)
    window = window_frames(params.factors)
    windows = job.compare(window, WINDOW_START.format(window)) if lowest > window else None
    metrics = job.scores(whole) | job.probe(whole) | motion_scores(whole.real, whole.generated)
    for level in range(2, params.n_levels + 1):
        metrics[f"grounding_psnr_level_{level}"] = grounding(params, paths, level, workers)
    return Evaluation(
        metrics=metrics,
        protocol=job.protocol(whole),
        windows=job.scores(windows) if windows else None,
        windows_protocol=job.protocol(windows) if windows else None,
        psd=psd_table(whole.real, whole.generated),
        per_class=class_table(job.networks, whole.real, whole.generated, job.real.classes if job.labelled else ()),
        counts=count_table(job.networks, whole.real, whole.generated, labelled=job.labelled, seed=params.seed),
        motion=motion_table(whole.real, whole.generated),
    )


def window_frames(factors: tuple[int, ...]) -> int:
    """Frames of view 1 that a window spans, for the K_T between successive views, lowest first."""
    return max(WINDOW // prod(factors[:-1]), 1)


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Two measured sets of clips that last equally long."""

    real: Measured
    generated: Measured
    real_clips: list[tuple[int, int]]
    frames: int
    start: str
    splits: int
    psd_sets: int


class _Job:
    """An evaluation's stores, networks and workers."""

    def __init__(self, params: Params, paths: Paths, workers: Workers) -> None:
        chosen, self.top = params.evaluation, params.n_levels
        self.params, self._paths, self._workers = params, paths, workers
        self.networks = load_networks(
            origin(paths.root), chosen.i3d_k400, chosen.i3d_k600, chosen.precision, params.seed, workers.device
        )
        self.split = real_split(paths.pyramid, chosen.split, params.view(self.top).frames)
        self.real = ViewReader(paths.pyramid, self.top, self.split, in_memory=0)  # each clip is read once
        self._generated = ViewReader(paths.samples(self.top), self.top, "samples", in_memory=0)
        self.labelled = len(self.real.classes) > 0 and params.data.classes != 0
        random = self.networks.logits.random and self.networks.pooled.random
        self._most = min(chosen.videos, RANDOM_VIDEOS) if random else chosen.videos
        self._cache = StatisticsCache(Paths(origin(paths.root)).state / "cache" / "metrics")

    def compare(self, window: int, start: str) -> _Compared:
        """Measure real and generated clips that span `window` frames of view 1; `start` says how they are chosen."""
        chosen, frames = self.params.evaluation, window * prod(self.params.factors)
        of_real = choose_clips(self.params, self.real, "real", self._most, window)
        of_generated = choose_clips(self.params, self._generated, "generated", self._most, window)
        sets = _parts("psd_sets", chosen.psd_sets, min(len(of_real), len(of_generated)))
        splits = _parts("splits", chosen.splits, len(of_generated))
        psd = {"psd_frames": chosen.psd_frames if start == WHOLE_START else (), "psd_sets": sets}
        real = self._measured_real(self.real, of_real, frames, **psd)
        generated = self._empty(self._generated, of_generated, frames, splits=splits, **psd)
        self._measure(generated, self._generated, of_generated, frames, "generated clips")
        return _Compared(
            real=real, generated=generated, real_clips=of_real, frames=frames, start=start, splits=splits, psd_sets=sets
        )

    def scores(self, found: _Compared) -> dict[str, float]:
        return scores(self.networks, found.real, found.generated, labelled=self.labelled)

    def probe(self, found: _Compared) -> dict[str, float]:
        """The accuracies of a linear probe trained on real clips that are not measured themselves.

        Clips without a class count on no side, and a side that has no others has no accuracy.
        """
        if not self.labelled or not _long_enough(self._paths.pyramid, "train", found.frames):
            return {}
        train = ViewReader(self._paths.pyramid, self.top, "train", in_memory=0)
        measured = {int(self.real.rows[video]) for video, _ in found.real_clips}
        clips = choose_clips(self.params, train, "probe", len(train), self.params.view(1).frames)
        clips = [clip for clip in clips if train.labels[clip[0]] >= 0 and int(train.rows[clip[0]]) not in measured]
        clips = clips[: self._most]
        if len(set(train.labels[[video for video, _ in clips]].tolist())) < 2:
            log.warning("the train split has no two classes of clips beside those measured: no linear probe")
            return {}
        of_train = self._measured_real(train, clips, found.frames)
        probe = Probe(of_train.pooled, of_train.labels)
        sides = {"probe_accuracy_real": found.real, "probe_accuracy_generated": found.generated}
        known = {name: side.labels >= 0 for name, side in sides.items()}
        return {
            name: probe.accuracy(side.pooled[known[name]], side.labels[known[name]])
            for name, side in sides.items()
            if known[name].any()
        }

    def protocol(self, found: _Compared) -> Protocol:
        whole = found.start == WHOLE_START
        return protocol(
            frames=found.frames,
            start=found.start,
            logits=self.networks.logits,
            pooled=self.networks.pooled,
            real_split=self.split,
            real_videos=found.real.count,
            generated_videos=found.generated.count,
            size=self.real.size,
            frame_step=self.params.decode.frame_step,
            sigma=self.params.sigma.metrics,
            splits=found.splits,
            psd_frames=self.params.evaluation.psd_frames if whole else (),
            psd_sets=found.psd_sets if whole else 0,
            seed=self.params.seed,
            pyramid=self.real.digest,
            samples=self._generated.digest,
        )

    def _measured_real(self, reader: ViewReader, clips: list[tuple[int, int]], frames: int, **parts) -> Measured:
        """Statistics of real clips: as they were kept, or measured and kept."""
        rows = np.array([(int(reader.rows[video]), start) for video, start in clips], np.int64)
        networks = [self.networks.logits, self.networks.pooled]
        key = {
            "pyramid": reader.digest,
            "level": self.top,
            "clips": hashlib.sha256(rows.tobytes()).hexdigest(),
            "frames": frames,
            "networks": [[network.weights, network.sha256, network.precision] for network in networks],
            "device": self._workers.device.type,
            **parts,
        }
        found = self._empty(reader, clips, frames, **parts)
        if not self._cache.load(key, found):
            self._measure(found, reader, clips, frames, f"real clips of {reader.videos['split'].iloc[0]}")
            if self._workers.rank == 0:
                self._cache.save(key, found)
        return found

    def _empty(self, reader: ViewReader, clips: list[tuple[int, int]], frames: int, **parts) -> Measured:
        return Measured(self.networks, videos=len(clips), frames=frames, size=reader.size, **parts)

    def _measure(self, into: Measured, reader: ViewReader, clips: list[tuple[int, int]], frames: int, what: str):
        with progress(total=len(clips), desc=f"features of {what}", unit="clips") as bar:
            into.measure(self.networks, self._batches(reader, clips, frames, bar))
        into.gather()

    def _batches(self, reader: ViewReader, clips: list[tuple[int, int]], frames: int, bar) -> Iterator[Batch]:
        """This worker's batches of a set: they are dealt out in turn."""
        for first in range(self._workers.rank * BATCH, len(clips), self._workers.count * BATCH):
            some = clips[first : first + BATCH]
            labels = torch.from_numpy(reader.labels[[video for video, _ in some]])
            yield Batch(first=first, clips=_tensor(reader, some, frames), labels=labels)
            bar.update(min(BATCH * self._workers.count, len(clips) - bar.n))


def load_networks(
    root: Path,
    i3d_k400: str | None,
    i3d_k600: str | None,
    precision: Precision,
    seed: int,
    device: torch.device,
    keys: tuple[str, str] = ("evaluation.i3d_k400", "evaluation.i3d_k600"),
) -> Networks:
    """The I3Ds of these files, from `root`; one random network stands in where there are no weights.

    keys: what the two are called in messages.
    """
    torch.backends.cudnn.allow_tf32 = False  # torch's default on GPUs: features would differ from a CPU's by 1e-3
    stand_in = None
    if i3d_k400 is None or i3d_k600 is None:
        stand_in = with_precision(random_i3d(seed, device), precision)
        log.info("no I3D weights for every metric: numbers of the random I3D carry random_i3d in their names")
    given = []
    for key, path, classes in ((keys[0], i3d_k400, 400), (keys[1], i3d_k600, 600)):
        if path is None:
            given.append(stand_in)
        else:
            given.append(with_precision(load_i3d(root / path, classes, key, device), precision))
    return Networks(logits=given[0], pooled=given[1])


def real_split(pyramid: Path, wanted: str, frames: int) -> str:
    """The split that real clips come from: the wanted one, or train where it has no two videos long enough."""
    for split in (wanted, "train"):
        if _long_enough(pyramid, split, frames) >= 2:
            if split != wanted:
                log.warning("split %r has no two videos of %d frames: real clips come from train", wanted, frames)
            return split
    raise UserError(f"evaluation.split: neither {wanted!r} nor 'train' has two videos of {frames} frames in {pyramid}")


def _long_enough(pyramid: Path, split: str, frames: int) -> int:
    """How many videos of a split have so many frames."""
    table = pd.read_parquet(pyramid / "videos.parquet", columns=["split", "n_frames"])
    return len(table[(table["split"] == split) & (table["n_frames"] >= frames)])


def choose_clips(params: Params, reader: ViewReader, side: str, most: int, window: int) -> list[tuple[int, int]]:
    """(video, first frame) of at most `most` clips of the top view, in random order, one of a video.

    A clip spans `window` frames of view 1 and begins where one of them does.
    """
    top = params.n_levels
    starts = windows_of_videos(reader.n_frames, params.factors, 1, window)
    order = generator(params.seed, top, f"evaluation {side} videos", 0, 0).permutation(np.flatnonzero(starts))
    clips = []
    for video in order[:most].tolist():
        uniform = generator(params.seed, top, f"evaluation {side} starts", 0, int(reader.rows[video])).random()
        clips.append((video, start_in_view(choose_start(uniform, int(starts[video])), params.factors, top)))
    return clips


def grounding(params: Params, paths: Paths, level: int, workers: Workers) -> float:
    """The mean PSNR, in dB, between the view below of a level's samples and the samples they were generated from."""
    above = ViewReader(paths.samples(level), level, "samples", in_memory=0)
    below = ViewReader(paths.samples(level - 1), level - 1, "samples", in_memory=0)
    order = generator(params.seed, level, "evaluation grounding", 0, 0).permutation(len(above))
    total, videos = torch.zeros((), dtype=torch.float64), order[: params.evaluation.videos].tolist()
    for video in videos[workers.rank :: workers.count]:
        sample = _tensor(above, [(video, 0)], int(above.n_frames[video]))
        source = _tensor(below, [(video, 0)], int(below.n_frames[video]))  # sample i is made from sample i below
        total += grounding_psnr(sample, source).item()
    return sum_of_workers(total).item() / len(videos)


def _parts(key: str, wanted: int, videos: int) -> int:
    """How many parts a set is measured in; a small one ends no run that took hours, and the protocol tells."""
    if wanted > videos:
        log.warning("evaluation.%s is %d and there are %d videos: as many parts as videos", key, wanted, videos)
    return min(wanted, videos)


def _tensor(reader: ViewReader, clips: list[tuple[int, int]], frames: int) -> UInt8[Tensor, "B T 3 H W"]:
    stacked = np.stack([reader.read(video, start, frames) for video, start in clips])
    return torch.from_numpy(stacked).movedim(-1, -3)

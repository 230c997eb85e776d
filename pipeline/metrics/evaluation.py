"""From stores to numbers: which clips are compared, and what is measured of them (Sec. 5.1, App. D, E)."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.data.sampling import generator
from pipeline.data.store.opening import read_table
from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.metrics.cache import kept
from pipeline.metrics.features import Precision, load_i3d, random_i3d
from pipeline.metrics.grounding import grounding_psnr
from pipeline.metrics.measured import FeatureNetworks, Measured, measure, motion_scores, scores
from pipeline.metrics.probe import Probe
from pipeline.metrics.protocol import protocol
from pipeline.metrics.tables import at_infinity, class_table, count_table, motion_table, psd_table
from pipeline.metrics.weights import evaluation_weights
from pipeline.params import Params
from pipeline.paths import Paths, origin
from pipeline.progress import progress
from pipeline.workers import Workers

log = logging.getLogger(__name__)

Places = list[tuple[int, int]]  # of clips in a view: video, first frame
RANDOM_VIDEOS = 64  # at most, that a random I3D looks at of each side: numbers that mean little are not worth hours
WHOLE_START = "a random frame that the lowest view has too"
# Sec. 5.2: "12 frames" of a level that makes 12 of 6 in training.
WINDOW_START = "a random window of {} frames of the view below; generated of such a window alone, as in training"
CUT_START = "a random window of {} frames of the view below; cut out of the whole samples"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Numbers with what they were measured on, and tables for plots."""

    # metrics and protocol of whole videos; where the top level is trained on windows, windows and windows_protocol of
    # windows that were made as in training, cut_windows and cut_windows_protocol of some that were cut out.
    numbers: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]  # psd, per_class, counts, motion: as pipeline.metrics.tables makes them


def evaluate(params: Params, paths: Paths, workers: Workers) -> Evaluation:
    """Compare the top level's samples with real clips, and every level's with their condition.

    Clips are shared among the workers, which take part all together and get the same numbers.
    """
    evaluator, chosen = Evaluator(params, paths, workers), params.evaluation
    videos = evaluator.compare("videos", WHOLE_START)
    real, generated = videos.real, videos.generated
    sets, splits = (evaluator.networks, real, generated), videos.protocol["splits"]
    counts = count_table(*sets, metrics=videos.scores, splits=splits, seed=params.seed)
    metrics = videos.scores | at_infinity(counts) | evaluator.probe(videos) | motion_scores(real, generated)
    for level in range(2, params.n_levels + 1):
        metrics[f"grounding_psnr_level_{level}"] = grounding(params, paths, level, workers)
    numbers = {"metrics": metrics, "protocol": videos.protocol}
    if (window := params.measured_window) is not None:
        for name, store, start in (("windows", "windows", WINDOW_START), ("cut_windows", "videos", CUT_START)):
            compared = evaluator.compare(store, start.format(window), window)
            numbers |= {name: compared.scores, f"{name}_protocol": compared.protocol}
    tables = {
        "psd": psd_table(real, generated, chosen.psd_frames, videos.protocol["psd_sets"]),
        "per_class": class_table(*sets, evaluator.real.classes if evaluator.labelled else (), splits),
        "counts": counts,
        "motion": motion_table(real, generated),
    }
    return Evaluation(numbers=numbers, tables=tables)


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Two measured sets of clips that last equally long."""

    real: Measured
    generated: Measured
    real_clips: Places
    scores: dict[str, float]
    protocol: dict[str, Any]


class Evaluator:
    """An evaluation's stores, networks and workers."""

    def __init__(self, params: Params, paths: Paths, workers: Workers) -> None:
        chosen, self.top = params.evaluation, params.n_levels
        self.params, self._paths, self._workers = params, paths, workers
        weights = evaluation_weights(params, paths.root)
        self.networks = load_networks(weights, chosen.precision, params.seed, workers.device)
        self.split = real_split(paths.pyramid, chosen.split, params.view(self.top).frames)
        self.real = ViewReader(paths.pyramid, self.top, self.split, in_memory=0)  # each clip is read once
        self.labelled = len(self.real.classes) > 0 and params.data.classes != 0
        random = self.networks.k400.random and self.networks.k600 is None
        self._looked_at = RANDOM_VIDEOS if random else None  # of a set; None: all of it

    def compare(self, store: str, start: str, window: int | None = None) -> _Compared:
        """Measure real clips and those of one of the samples' stores.

        start: how the start of a clip is chosen, for people. window: frames of the condition that a clip spans; None:
        they are whole videos, of which motion and spectra are measured as well.
        """
        params, chosen = self.params, self.params.evaluation
        samples = ViewReader(self._paths.samples(self.top) / store, self.top, in_memory=0)
        of_real = choose_clips(params, self.real, "real", chosen.videos, window)
        of_generated = choose_clips(params, samples, "generated", chosen.videos, window)
        frames = params.view(self.top).frames if window is None else window * params.factors[-1]
        psd_frames, psd_sets, frame_videos = None, 0, ()
        if window is None:
            psd_frames, frame_videos = chosen.psd_frames, (len(of_real), len(of_generated))
            psd_sets = _parts("psd_sets", chosen.psd_sets, min(frame_videos))
        real = self.measured_before(self.real, of_real, frames, psd_frames)
        generated = self.measured_before(samples, of_generated, frames, psd_frames)
        splits = None
        if chosen.splits is not None and self.labelled:
            splits = _parts("splits", chosen.splits, len(generated.labels))
        setting = self.protocol(
            samples,
            frames=frames,
            start=start,
            real_split=self.split,
            real_videos=len(real.labels),
            generated_videos=len(generated.labels),
            splits=splits,
            psd_frames=psd_frames or (),
            psd_sets=psd_sets,
            frame_videos=frame_videos,
        )
        numbers = scores(self.networks, real, generated, splits)
        looked_at = of_real[: self._looked_at]
        return _Compared(real=real, generated=generated, real_clips=looked_at, scores=numbers, protocol=setting)

    def protocol(self, samples: ViewReader, **chosen: Any) -> dict[str, Any]:
        """That of real clips beside those of a store of samples."""
        decode = self.params.decode
        return protocol(
            self.networks,
            size=self.real.size,
            frame_step=decode.frame_step,
            fps=decode.fps,
            sigma=self.params.sigma.metrics,
            seed=self.params.seed,
            pyramid=self.real.digest,
            samples=samples.digest,
            **chosen,
        )

    def probe(self, videos: _Compared) -> dict[str, float]:
        """The accuracies of a linear probe trained on real clips that are not measured themselves.

        Clips without a class count on no side, and a side that has no others has no accuracy.
        """
        frames = videos.protocol["frames"]
        if not self.labelled:
            return {}
        train = ViewReader(self._paths.pyramid, self.top, "train", in_memory=0)
        measured = {int(self.real.rows[video]) for video, _ in videos.real_clips}
        clips = choose_clips(self.params, train, "probe", len(train))
        clips = [clip for clip in clips if train.labels[clip[0]] >= 0 and int(train.rows[clip[0]]) not in measured]
        clips = clips[: self.params.evaluation.videos]
        if len(set(train.labels[[video for video, _ in clips]].tolist())) < 2:
            log.warning("the train split has no two classes of clips beside those measured: no linear probe")
            return {}
        of_train = self.measured_before(train, clips, frames)
        features = "pooled_k600" if self.networks.k400.random and self.networks.k600 is not None else "pooled"
        probe = Probe(getattr(of_train, features), of_train.labels)
        accuracies = {}
        for name, side in (("probe_accuracy_real", videos.real), ("probe_accuracy_generated", videos.generated)):
            known = side.labels >= 0
            if known.any():
                accuracies[name] = probe.accuracy(getattr(side, features)[known], side.labels[known])
        return accuracies

    def measured_before(
        self, reader: ViewReader, clips: Places, frames: int, psd_frames: Sequence[int] | None = None
    ) -> Measured:
        """As `_measured`, or what was kept of the same clips of the same store."""
        rows = np.array([(int(reader.rows[video]), start) for video, start in clips], np.int64)
        networks = [network for network in vars(self.networks).values() if network is not None]
        key = {
            "store": reader.digest,
            "level": self.top,
            "clips": hashlib.sha256(rows.tobytes()).hexdigest(),
            "frames": frames,
            "networks": [[network.weights, network.sha256, network.precision] for network in networks],
            "device": self._workers.device.type,
            "psd_frames": psd_frames,
            "looked_at": self._looked_at,
        }
        folder = Paths(origin(self._paths.root)).state / "cache" / "metrics"
        return kept(folder, key, self._workers, lambda: self._measured(reader, clips, frames, psd_frames))

    def _measured(self, reader: ViewReader, clips: Places, frames: int, psd_frames: Sequence[int] | None) -> Measured:
        """What is measured of clips of `frames` frames, by all workers: they are dealt out in turn.

        A random network looks at the first of them alone; motion and spectra, which take none, are of all.
        """
        rank, count, looked_at = self._workers.rank, self._workers.count, clips[: self._looked_at]
        clips = looked_at if psd_frames is None else clips
        share = clips[rank::count] or clips[:1]
        bar = progress(share, desc=f"features of {reader.videos['split'].iloc[0]}", unit="clips")
        read = (reader.read(video, start, frames) for video, start in bar)
        mine = measure(self.networks, read, psd_frames, max(len(looked_at[rank::count]), 1))
        labels = torch.from_numpy(reader.labels[[video for video, _ in looked_at]])
        return mine.gather(labels, len(clips), self._workers)


def load_networks(
    weights: Mapping[str, Path | None], precision: Precision, seed: int, device: torch.device
) -> FeatureNetworks:
    """The I3Ds of Kinetics-400, a random one where its weights lack, and of Kinetics-600, if any.

    weights: the files of the two, by what messages call them.
    """
    torch.backends.cudnn.allow_tf32 = False  # torch's default on GPUs: features would differ from a CPU's by 1e-3
    k400, k600 = (
        path and replace(load_i3d(path, classes, key, device), precision=precision)
        for classes, (key, path) in zip((400, 600), weights.items(), strict=True)
    )
    if k400 is None:
        log.info("no I3D weights for FVD and IS: numbers of the random I3D carry random_i3d in their names")
        k400 = replace(random_i3d(seed, device), precision=precision)
    return FeatureNetworks(k400, k600)


def real_split(pyramid: Path, chosen: str, frames: int) -> str:
    """The split that real clips come from: the wanted one, or train where it has no two videos long enough."""
    videos = read_table(pyramid)
    long_enough = videos.loc[videos["n_frames"] >= frames, "split"].value_counts()
    for split in (chosen, "train"):
        if long_enough.get(split, 0) >= 2:
            if split != chosen:
                log.warning("split %r has no two videos of %d frames: real clips come from train", chosen, frames)
            return split
    raise UserError(f"evaluation.split: neither {chosen!r} nor 'train' has two videos of {frames} frames in {pyramid}")


def choose_clips(params: Params, reader: ViewReader, side: str, most: int, window: int | None = None) -> Places:
    """(video, first frame) of at most `most` clips of the top view, in random order, one of a video.

    window: frames of the top level's condition that a clip spans; None: all. It begins where view 1 has a frame.
    """
    top = params.n_levels
    level, span = (1, params.view(1).frames) if window is None else (top, window)
    starts = windows_of_videos(reader.n_frames, params.factors, level, span)
    order = generator(params.seed, top, f"evaluation {side} videos", 0, 0).permutation(np.flatnonzero(starts))
    clips = []
    for video in order[:most].tolist():
        uniform = generator(params.seed, top, f"evaluation {side} starts", 0, int(reader.rows[video])).random()
        clips.append((video, start_in_view(choose_start(uniform, int(starts[video])), params.factors, top)))
    return clips


def grounding(params: Params, paths: Paths, level: int, workers: Workers) -> float:
    """The mean PSNR, in dB, between the view below of a level's samples and the samples they were generated from."""
    above = ViewReader(paths.samples(level) / "videos", level, in_memory=0)
    below = ViewReader(paths.samples(level - 1) / "videos", level - 1, in_memory=0)
    order = generator(params.seed, level, "evaluation grounding", 0, 0).permutation(len(above))
    total, videos = torch.zeros((), dtype=torch.float64), order[: params.evaluation.videos].tolist()
    for video in videos[workers.rank :: workers.count]:
        # Sample i is made from sample i below.
        sample, source = (
            torch.from_numpy(reader.read(video, 0, int(reader.n_frames[video]))).movedim(-1, -3)[None]
            for reader in (above, below)
        )
        total += grounding_psnr(sample, source).item()
    return workers.sum(total).item() / len(videos)


def _parts(key: str, parts: int, videos: int) -> int:
    """How many parts a set is measured in; a small one ends no run that took hours, and the protocol tells."""
    if parts > videos:
        log.warning("evaluation.%s is %d and there are %d videos: as many parts as videos", key, parts, videos)
    return min(parts, videos)

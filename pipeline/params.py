"""params.yaml, parsed once and checked whole: unknown keys and impossible combinations are refused by key."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import fsspec
from pydantic import ConfigDict, Field

from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View
from pipeline.errors import UserError
from pipeline.system.values import (
    LARGEST,
    Decay,
    Fps,
    Hash,
    I3DFile,
    Natural,
    Place,
    Positive,
    Rate,
    Several,
    Share,
    Text,
)
from pipeline.system.yaml import read_yaml, validated


@dataclass(frozen=True, kw_only=True)
class ShapesParams:
    """What make-shapes renders: moving, textured shapes as H.264 videos in the Kinetics layout."""

    train: Positive  # videos of the train split
    val: Positive
    size: Annotated[int, Field(gt=0, le=4096, multiple_of=2)]  # pixels, square; even, for H.264's 4:2:0
    frames: Positive
    fps: Annotated[int, Field(gt=0, le=1000)]


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Which videos there are."""

    layout: Literal["kinetics", "bdd100k", "folder", "table"]
    root: Place  # the folder of the videos, absolute or from the project's root; no stage depends on it
    listing: Place  # the table of its files (path, size, mtime), which decode depends on
    # How many classes the networks know; 0: labels are ignored; null: as many as found.
    classes: Annotated[int, Field(ge=0, le=10**5)] | None
    mirror: bool  # whether training sees every second real clip, by chance, in a mirror; what measures never does
    image_rate: Fps | None  # of folders of numbered images, which are videos then (folder, table); null: none are
    attribute: Literal["weather", "scene", "timeofday"] | None  # of BDD100K's label JSON, as classes; null: none


@dataclass(frozen=True, kw_only=True)
class DecodeParams:
    """How videos become the pyramid."""

    frame_step: Positive | None  # native frames from one frame of the top view to the next; null: as fps says
    fps: Fps | None  # of the top view; null: as frame_step says
    crop: Literal["center", "none"]  # to a square, after scaling the short side; none squeezes
    hdr: Literal["tone-map", "leave-out"]  # videos of high dynamic range (PQ, HLG)
    max_frames: Positive | None  # of the top view a video; null: whole videos
    min_frames: Positive  # of the top view; shorter videos are left out and listed
    max_failed: Share  # the share of undecodable videos above which the stage fails
    engine: Literal["pyav", "ffmpeg"]
    codec: Literal["none", "blosc", "jpeg"]  # jpeg: of the top view; the views below follow from what it decodes to
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    store: Annotated[str, Field(min_length=1)] | None  # of the arrays: null, in data/pyramid; or a URL of fsspec
    shard_videos: Positive  # videos a shard file of the store
    timeout: Positive  # seconds a video may take


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """When a level's training ends before its last iteration (Sec. 5.1); the best generator is published."""

    every: Positive  # iterations between measurements
    patience: Positive  # measurements without a better one after which it stops
    videos: Several  # real and generated each, of the validation split and of the level
    i3d: I3DFile | None  # of an I3D trained on Kinetics-600 that measures; null: a random one


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a level begins from, for which `hvg run train --from` looks: a checkpoint, or a published level's folder."""

    path: Place  # absolute or from the project's root; it may move, nothing depends on it
    sha256: Hash  # of the checkpoint; or of config.json, discriminators.safetensors and generator.safetensors, joined


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """A level's optimisation (Sec. 5.1, App. A)."""

    window: Positive | None  # frames of the condition a training clip spans; null: the whole view
    batch: Positive  # clips an update, over all workers
    iterations: Positive  # generator updates
    discriminator_steps: Positive  # discriminator updates a generator update, each on fresh data
    lr_generator: Rate
    lr_discriminator: Rate
    betas: tuple[Decay, Decay]  # Adam's; PAPER: not given
    checkpoint_every: Positive  # iterations
    log_every: Positive  # iterations
    precision: Literal["float32", "bfloat16"]  # of the arithmetic (autocast); weights stay float32
    compile: bool  # torch.compile of G and D
    channels_last: bool  # memory format of convolutions
    recompute: bool  # activations of G again in the backward pass
    accumulate: Positive  # parts in which D goes through a batch; G's batch norm needs the whole
    fused: bool  # Adam's update as one kernel
    average: Annotated[float, Field(gt=0, lt=1)] | None  # decay of an average of G's weights, which is published then
    samples_every: Positive | None  # iterations between pictures of samples in MLflow
    early_stopping: EarlyStopping | None
    start: Start | None  # networks to begin from; null: random ones


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """What a trained level generates."""

    videos: Positive  # at sigma.metrics: for the metrics, and as conditions of the next level's training
    figures: Positive  # at sigma.figures: for the report
    batch: Positive  # videos at a time
    recalibration: Positive  # forward passes for the per-timestep statistics; the paper: 200
    piece: Positive | None  # frames of the condition that are unrolled at a time; null: all


@dataclass(frozen=True, kw_only=True)
class LevelParams:
    """Everything that belongs to one level alone."""

    condition: str  # what the level is conditioned on: the labels' table at level 1, the level below's samples above
    generator: GeneratorConfig
    discriminators: DiscriminatorConfig
    training: TrainingParams
    generation: GenerationParams


@dataclass(frozen=True, kw_only=True)
class SigmaParams:
    """The standard deviation of z (App. H)."""

    metrics: Rate
    figures: Rate


@dataclass(frozen=True, kw_only=True)
class EvaluationParams:
    """What is measured, on what."""

    videos: Several  # real and generated each
    split: Text  # the split that the real ones come from
    i3d_k400: I3DFile | None  # of an I3D trained on Kinetics-400, for IS and FVD; null: random_i3d_* instead
    i3d_k600: I3DFile | None  # … on Kinetics-600, for FID
    splits: Positive | None  # of the generated set, for the inception score's deviation; null: no inception score
    psd_frames: tuple[Positive, ...]  # which frames of the top view, from 1
    psd_sets: Positive  # over which the spectrum's deviation is taken
    precision: Literal["float32", "bfloat16"]  # of the I3D's arithmetic (autocast)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The active recipe."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # and so for every section below

    seed: Natural
    shapes: dict[str, ShapesParams]  # rendered to data/<key>; {} where the videos exist already
    data: DataParams
    decode: DecodeParams
    views: dict[str, View]  # by level: x^1 … x^L at full length
    sigma: SigmaParams
    levels: dict[str, LevelParams]
    last: str  # the top level: evaluate and report depend on its samples
    evaluation: EvaluationParams

    @property
    def n_levels(self) -> int:
        return len(self.levels)

    @property
    def rendered(self) -> bool:
        """Whether the videos are made by make-shapes, listing included."""
        return self.data.root in {f"data/{key}" for key in self.shapes}

    @property
    def factors(self) -> tuple[int, ...]:
        """K_T between successive views, lowest first."""
        frames = [self.view(level).frames for level in range(1, self.n_levels + 1)]
        return tuple(above // below for below, above in pairwise(frames))

    def of_level(self, level: int) -> LevelParams:
        """What belongs to one level alone. Raises UserError for a level that there is not."""
        if str(level) not in self.levels:
            raise UserError(f"--level {level}: params.yaml has the levels {', '.join(self.levels)}")
        return self.levels[str(level)]

    def view(self, level: int) -> View:
        return self.views[str(level)]

    def level(self, level: int, classes: int | None = None) -> LevelConfig:
        """The networks' configuration of a level. `classes` as found in the data, where data.classes is null."""
        chosen = self.of_level(level)
        known = self.data.classes if self.data.classes is not None else classes
        if known is None:
            raise UserError("data.classes is null: give a number, or decode the data first")
        return LevelConfig(
            level=level,
            view=self.view(level),
            condition=self.view(level - 1) if level > 1 else None,
            classes=known,
            generator=chosen.generator,
            discriminators=chosen.discriminators,
        )

    def window(self, level: int) -> int:
        """How many frames a training clip of a level has in the level's condition (level 1: in its own view)."""
        return self.of_level(level).training.window or self.view(max(level - 1, 1)).frames


def load_params(path: Path = Path("params.yaml")) -> Params:
    """A parameter file, checked. Raises UserError where there is none, with a key's path where a value cannot be."""
    if not path.is_file():
        raise UserError(f"{path}: no such parameter file; `hvg recipe shapes` makes one")
    return parse_params(read_yaml(path), path)


def parse_params(raw: Any, path: Path = Path("params.yaml")) -> Params:
    """Check a mapping as a parameter file; `path` is for messages."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of parameters")
    for section in ("levels", "views"):
        keys = raw[section] if isinstance(raw.get(section), dict) else ()
        if unquoted := [key for key in keys if not isinstance(key, str)]:
            raise UserError(f'{path}: {section}: keys must be quoted, "{unquoted[0]}": DVC drops numbers silently')
    params: Params = validated(Params, raw, str(path))
    for key, problem in _impossible(params):
        raise UserError(f"{path}: {key}: {problem}")
    return params


def _impossible(params: Params) -> Iterator[tuple[str, str]]:
    """Keys of values and combinations that no hierarchy can have, and why not. Each check relies on those before it."""
    numbers = [str(number) for number in range(1, max(len(params.levels), 1) + 1)]
    for section, given in (("levels", params.levels), ("views", params.views)):
        if set(given) != set(numbers):
            yield section, f'keys must be "1", "2", … without a gap, one a level, not {list(given)}'
    # The networks' and views' numbers, whose dataclasses know no checks.
    sections: dict[str, Any] = {f"views.{key}": view for key, view in params.views.items()}
    for key, level in params.levels.items():
        sections |= {f"levels.{key}.generator": level.generator, f"levels.{key}.discriminators": level.discriminators}
    for section, values in sections.items():
        for name, value in asdict(values).items():
            given = value if isinstance(value, tuple) else (value,)
            out = [number for number in given if type(number) is int and not 1 <= number <= LARGEST[name]]
            if out or not given:
                bound = f"at most {LARGEST[name]}" if out and out[0] > 0 else "positive"
                yield f"{section}.{name}", f"must be {bound}, not {json.dumps(value)}"
    for low, high in pairwise(numbers):
        below, above = params.views[low], params.views[high]
        if above.size % below.size or above.frames % below.frames:
            yield f"views.{high}", f"must be a whole multiple of view {low} in frames and size"
        for name in ("videos", "figures"):
            most = getattr(params.levels[low].generation, name)
            if getattr(params.levels[high].generation, name) > most:
                yield f"levels.{high}.generation.{name}", f"each needs a sample of level {low}, which makes {most}"
    last, data, decode, evaluation = numbers[-1], params.data, params.decode, params.evaluation
    samples, frames = params.levels[last].generation.videos, params.views[last].frames
    kept, store = decode.max_frames or decode.min_frames, decode.store or "file:///"
    listing = str(PurePosixPath(data.listing))  # without . and //
    odd = ", ".join(repr(k) for k in params.shapes if not re.fullmatch("(?!(pyramid|samples)$)[a-z0-9][a-z0-9-]*", k))
    for key, wrong, why in (
        *chain.from_iterable(_of_level(params, int(number)) for number in numbers),
        ("shapes", odd, f"{odd} names a folder of data/: small letters, digits and -, not pyramid or samples"),
        ("last", params.last != last, f"must be the last level, {last!r}"),
        ("data.attribute", data.attribute and data.layout != "bdd100k",
         f"must be null: only the layout bdd100k has label JSON, not {data.layout}"),
        ("data.image_rate", data.image_rate and data.layout not in ("folder", "table"),
         f"must be null: the layout {data.layout} knows no folders of images"),
        ("data.listing", not re.fullmatch(r"data/(?!(pyramid|samples)/)(?!.*\.\.(/|$)).*[^/]\.csv", listing),
         "must be a .csv below data/, and outside data/pyramid and data/samples"),
        ("decode.fps", (decode.fps is None) == (decode.frame_step is None),
         "give it or decode.frame_step, and null for the other"),
        ("decode.max_frames", decode.max_frames and decode.max_frames < frames,
         f"fewer than the {frames} of the top view: no video would be whole"),
        ("decode.min_frames", kept < decode.min_frames, f"more than decode.max_frames, {kept}: no video would be left"),
        ("decode.store", "://" not in store, f"must be a URL such as s3://bucket/folder, or null, not {store!r}"),
        ("decode.store", store.partition("://")[0] not in fsspec.available_protocols(), f"fsspec knows no scheme {store.partition(':')[0]}://"),
        ("decode.store", store.startswith("memory:"), "must outlive the processes that write it: no memory"),
        ("decode.store", re.match(r"(file|local)://(?!/)", store),
         f"must be an absolute path, file:///…, not {store!r}"),
        ("evaluation.videos", evaluation.videos > samples,
         f"level {last} generates only {samples} (levels.{last}.generation.videos)"),
        ("evaluation.splits", (evaluation.splits or 0) > evaluation.videos, "more than evaluation.videos"),
        ("evaluation.psd_sets", evaluation.psd_sets > evaluation.videos, "more than evaluation.videos"),
        ("evaluation.psd_frames", not evaluation.psd_frames or max(evaluation.psd_frames) > frames,
         f"must be some of the top view's frames, 1 to {frames}"),
    ):  # fmt: skip
        if wrong:
            yield key, why


def _of_level(params: Params, number: int) -> Iterator[tuple[str, Any, str]]:
    """Keys, whether their value is wrong, and why."""
    level, config = params.of_level(number), params.level(number, classes=0)
    generator, discriminators, training = level.generator, level.discriminators, level.training
    first, top, condition = number == 1, config.view.size, config.condition or config.view
    expected = "data/pyramid/videos.parquet" if first else f"data/samples/level-{number - 1}"
    units, blocks = len(generator.multipliers), len(discriminators.multipliers)
    smallest = min(top // 2, condition.size)
    yield from ((f"levels.{number}.{key}", wrong, why) for key, wrong, why in (
        ("condition", level.condition != expected, f"must be {expected!r}"),
        ("generator.multipliers", config.first_size << config.doublings != top or config.first_size < 1,
         f"{units} units cannot double up to {top} pixels"),
        ("discriminators.multipliers", not smallest >> (blocks - 1),
         f"{blocks} blocks halve {smallest} pixels to less than one"),
        ("discriminators.matching", first and discriminators.matching, "must be false: a first level has no condition"),
        ("generation.piece", level.generation.piece and (first or generator.temporal_layer == "convgru"),
         "must be null: a recurrent level is not cut in time (separable3d is)"),
        ("training.accumulate", training.batch % training.accumulate, f"must divide the batch of {training.batch}"),
        ("training.window", first and training.window, "must be null: the first level is trained on whole views"),
        ("training.window", params.window(number) > condition.frames, "longer than the condition"),
        ("training.start", training.start and PurePosixPath(training.start.path).parts[:1] == ("artifacts",),
         "training replaces what lies in artifacts; `hvg run train --from` keeps a copy of it"),
    ))  # fmt: skip

"""params.yaml, parsed once and checked whole: unknown keys and impossible combinations are refused by key."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View
from pipeline.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0, lt=2**48)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ShapesParams:
    """What make-shapes renders: moving, textured shapes as H.264 videos in the Kinetics layout."""

    train: Positive  # videos of the train split
    val: Positive
    size: Positive  # pixels, square; even, for 4:2:0
    frames: Positive
    fps: Positive


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Which videos there are."""

    layout: Literal["kinetics", "bdd100k", "folder", "table"]
    root: str  # the folder of the videos, absolute or from the project's root; no stage depends on it
    listing: str  # the table of its files (path, size, mtime), which decode depends on
    classes: Natural | None  # how many classes the networks know; 0: labels are ignored; null: as many as found
    attribute: Literal["weather", "scene", "timeofday"] | None  # of BDD100K's label JSON, as classes; null: none


@dataclass(frozen=True, kw_only=True)
class DecodeParams:
    """How videos become the pyramid."""

    frame_step: Positive  # native frames from one frame of the top view to the next
    crop: Literal["center", "none"]  # to a square, after scaling the short side; none squeezes
    max_frames: Positive | None  # of the top view a video; null: whole videos
    min_frames: Positive  # of the top view; shorter videos are left out and listed
    max_failed: Share  # the share of undecodable videos above which the stage fails
    engine: Literal["pyav", "ffmpeg"]
    codec: Literal["none", "blosc", "jpeg"]  # jpeg: of the top view; the views below follow from what it decodes to
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    store: str | None  # of the arrays: null, in data/pyramid; or a URL that fsspec opens
    shard_videos: Positive  # videos a shard file of the store
    timeout: Positive  # seconds a video may take


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """When a level's training ends before its last iteration (Sec. 5.1); the best generator is published."""

    every: Positive  # iterations between measurements
    patience: Positive  # measurements without a better one after which it stops
    videos: Annotated[int, Field(ge=2)]  # real and generated each, of the validation split and of the level
    i3d: str | None  # weights of an I3D trained on Kinetics-600 that measures; null: a random one


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """A level's optimisation (Sec. 5.1, App. A)."""

    window: Positive | None  # frames of the condition a training clip spans; null: the whole view
    batch: Positive  # clips an update, over all workers
    iterations: Positive  # generator updates
    discriminator_steps: Positive  # discriminator updates a generator update, each on fresh data
    lr_generator: Rate
    lr_discriminator: Rate
    betas: tuple[Share, Share]  # Adam's; PAPER: not given
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

    videos: Positive  # real and generated videos each
    split: str  # the split that the real ones come from
    i3d_k400: str | None  # weights of an I3D trained on Kinetics-400, for IS and FVD; null: random_i3d_* instead
    i3d_k600: str | None  # … on Kinetics-600, for FID
    splits: Positive  # of the generated set, for the inception score's deviation
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
        given = self.of_level(level).training.window
        return given if given is not None else self.view(max(level - 1, 1)).frames


def fingerprint(*values: Any) -> str:
    """A hash of plain values and dataclasses, the same in every process."""
    plain = [asdict(v) if hasattr(v, "__dataclass_fields__") else v for v in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file.

    Raises UserError where there is none, and with the key's path where a value cannot be.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such parameter file; `hvg recipe shapes` makes one")
    try:
        raw = YAML(typ="safe").load(path)  # YAML 1.2, as DVC reads it
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_params(raw, path)


def parse_params(raw: Any, path: Path = Path("params.yaml")) -> Params:
    """Check a mapping as a parameter file; `path` is for messages."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of parameters")
    for section in ("levels", "views"):
        if unquoted := [key for key in raw.get(section) or {} if not isinstance(key, str)]:
            raise UserError(f'{path}: {section}: keys must be quoted, "{unquoted[0]}": DVC drops numbers silently')
    try:
        params = TypeAdapter(Params).validate_json(json.dumps(raw))
    except TypeError as error:
        raise UserError(f"{path}: holds a value that is no number, text, list or mapping: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {key}: {explain(first)}") from error
    for key, problem in _impossible(params):
        raise UserError(f"{path}: {key}: {problem}")
    return params


def explain(error: Any) -> str:
    """What is wrong with a value, from an error of pydantic's."""
    match error["type"]:
        case "unexpected_keyword_argument":
            return "no such parameter"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case _:
            return f"{error['msg']}, not {json.dumps(error['input'])}"


def _impossible(params: Params) -> Iterator[tuple[str, str]]:
    """Yield (key, why not) for values and combinations that no hierarchy can have."""
    numbers = [str(number) for number in range(1, len(params.levels) + 1)]
    if not numbers or set(params.levels) != set(numbers):
        yield "levels", f'keys must be "1", "2", … without a gap, not {list(params.levels)}'
        return
    if set(params.views) != set(numbers):
        yield "views", f"must have the keys of levels, {numbers}, not {list(params.views)}"
        return
    if params.last != numbers[-1]:
        yield "last", f"must be the last level, {numbers[-1]!r}"
    yield from _not_positive(params)
    for low, high in pairwise(numbers):
        below, above = params.views[low], params.views[high]
        if above.size % below.size or above.frames % below.frames:
            yield f"views.{high}", f"must be a whole multiple of view {low} in frames and size"
    for key in numbers:
        yield from _impossible_level(params, int(key))
    for low, high in pairwise(numbers):
        for name in ("videos", "figures"):
            most = getattr(params.levels[low].generation, name)
            if getattr(params.levels[high].generation, name) > most:
                yield f"levels.{high}.generation.{name}", f"each needs a sample of level {low}, which makes {most}"
    if params.evaluation.videos < 2:
        yield "evaluation.videos", "must be at least 2: one video has no covariance"
    most = params.levels[params.last].generation.videos
    if params.evaluation.videos > most:
        yield "evaluation.videos", f"level {params.last} generates only {most} (levels.{params.last}.generation.videos)"
    if params.data.attribute is not None and params.data.layout != "bdd100k":
        yield "data.attribute", f"must be null: only the layout bdd100k has label JSON, not {params.data.layout}"
    if params.decode.max_frames is not None and params.decode.max_frames < params.decode.min_frames:
        yield "decode.min_frames", f"more than decode.max_frames, {params.decode.max_frames}: no video would be left"
    if params.decode.store is not None and "://" not in params.decode.store:
        yield "decode.store", f"must be a URL such as s3://bucket/folder, or null, not {params.decode.store!r}"
    if (params.decode.store or "").startswith("memory:"):
        yield "decode.store", "must outlive the processes that write it: no memory"
    if re.match(r"(file|local)://(?!/)", params.decode.store or ""):
        yield "decode.store", f"must be an absolute path, file:///…, not {params.decode.store!r}"
    if Path(params.data.listing).is_absolute() or ".." in Path(params.data.listing).parts:
        yield "data.listing", "must lie in the project"
    for key, shapes in params.shapes.items():
        if not re.fullmatch("[a-z0-9][a-z0-9-]*", key) or key in ("pyramid", "samples"):
            yield "shapes", f"{key!r} names a folder of data/: small letters, digits and -, not pyramid or samples"
        if shapes.size % 2:
            yield f"shapes.{key}.size", "must be even (H.264 4:2:0)"
    frames = params.view(params.n_levels).frames
    if not params.evaluation.psd_frames or max(params.evaluation.psd_frames) > frames:
        yield "evaluation.psd_frames", f"must be some of the top view's frames, 1 to {frames}"


def _not_positive(params: Params) -> Iterator[tuple[str, str]]:
    """The networks' and views' numbers, whose dataclasses know no checks."""
    sections: dict[str, Any] = {f"views.{key}": view for key, view in params.views.items()}
    for key, level in params.levels.items():
        sections[f"levels.{key}.generator"] = level.generator
        sections[f"levels.{key}.discriminators"] = level.discriminators
        if max(level.training.betas) >= 1:
            yield f"levels.{key}.training.betas", "must be below 1"
    for section, values in sections.items():
        for name, value in asdict(values).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(isinstance(number, int) and number < 1 and number is not False for number in numbers):
                yield f"{section}.{name}", f"must be positive, not {json.dumps(value)}"


def _impossible_level(params: Params, number: int) -> Iterator[tuple[str, str]]:
    level, config = params.of_level(number), params.level(number, classes=0)
    key = f"levels.{number}"
    expected = "data/pyramid/videos.parquet" if number == 1 else f"data/samples/level-{number - 1}"
    if level.condition != expected:
        yield f"{key}.condition", f"must be {expected!r}"
    if config.first_size << config.doublings != config.view.size or config.first_size < 1:
        units = len(level.generator.multipliers)
        yield f"{key}.generator.multipliers", f"{units} units cannot double up to {config.view.size} pixels"
    smallest = min(config.view.size // 2, config.condition.size if config.condition else config.view.size)
    if smallest >> (len(level.discriminators.multipliers) - 1) < 1:
        blocks = len(level.discriminators.multipliers)
        yield f"{key}.discriminators.multipliers", f"{blocks} blocks halve {smallest} pixels to less than one"
    if number == 1 and level.discriminators.matching:
        yield f"{key}.discriminators.matching", "must be false: a first level has no condition to match"
    if level.generation.piece is not None and (number == 1 or level.generator.temporal_layer == "convgru"):
        yield f"{key}.generation.piece", "must be null: a recurrent level is not cut in time (separable3d is)"
    if level.training.batch % level.training.accumulate:
        yield f"{key}.training.accumulate", f"must divide the batch of {level.training.batch}"
    if number == 1 and level.training.window is not None:
        yield f"{key}.training.window", "must be null: the first level is trained on whole views"
    if params.window(number) > params.view(max(number - 1, 1)).frames:
        yield f"{key}.training.window", "longer than the condition"

"""The sections of params.yaml, by key, and what follows from them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from models.config import DiscriminatorConfig, GeneratorConfig, LevelConfig, View
from pipeline.errors import UserError
from pipeline.system.values import Decay, Fps, Hash, I3DFile, Natural, Place, Positive, Rate, Several, Share, Text


@dataclass(frozen=True, kw_only=True)
class ShapesParams:
    """What make-shapes renders: moving, textured shapes as H.264 videos in the Kinetics layout."""

    classes: Literal[8, 64]  # each of a colour, form and motion of its own; or of four of each, in every combination
    train: Positive  # videos of the train split
    val: Positive
    size: Annotated[int, Field(gt=0, le=4096, multiple_of=2)]  # pixels, square; even, for H.264's 4:2:0
    frames: Annotated[int, Field(gt=0, le=2**16)]
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
    shard_videos: Annotated[int, Field(gt=0, le=2**16)]  # videos a shard file of the store
    timeout: Positive  # seconds a video may take


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a level is measured while it is trained: windows of the validation split, and generated ones (Fig. 9)."""

    every: Positive  # iterations between measurements
    videos: Annotated[int, Field(ge=2, le=10**6)]  # windows, real and generated each
    i3d: I3DFile | None  # of an I3D trained on Kinetics-400 that measures; null: a random one
    splits: Positive | None  # of the generated windows, for the inception score, of Kinetics; null: none
    # Measurements without a better one after which training stops and the best generator is published (Sec. 5.1); null:
    # it goes on to its last iteration, and that one is.
    patience: Positive | None


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
    # Of the arithmetic; weights stay float32. tf32: products of 10 bits on GPUs that have it; bfloat16: by autocast.
    precision: Literal["float32", "tf32", "bfloat16"]
    compile: bool  # torch.compile of G and D
    channels_last: bool  # memory format of convolutions
    recompute: bool  # activations of G again in the backward pass
    accumulate: Positive  # parts in which D goes through a batch; G's batch norm needs the whole
    fused: bool  # Adam's update as one kernel
    average: Annotated[float, Field(gt=0, lt=1)] | None  # decay of an average of G's weights, which is published then
    samples_every: Positive | None  # iterations between pictures of samples in MLflow
    measure: Measure | None
    start: Start | None  # networks to begin from; null: random ones


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """How a trained level generates."""

    batch: Positive  # videos at a time
    recalibration: Positive  # forward passes for the per-timestep statistics; the paper: 200
    piece: Positive | None  # frames of the condition that are unrolled at a time; null: all


@dataclass(frozen=True, kw_only=True)
class LevelParams:
    """Everything that belongs to one level alone."""

    # What the level is made from: the labels' table at level 1; above it, of the level below, the conditions that it is
    # trained on, and the samples that its samples are made from.
    condition: str
    below: str
    generator: GeneratorConfig
    discriminators: DiscriminatorConfig
    training: TrainingParams
    generation: GenerationParams


@dataclass(frozen=True, kw_only=True)
class ConditionParams:
    """The videos of a level that the level above is trained on, and that nothing else is made or judged by."""

    condition: str  # what they are made from: the labels' table, or the conditions of the level below
    train: Positive  # videos
    measure: Positive  # videos more, kept back for measuring in training
    codec: Literal["none", "blosc", "jpeg"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """The videos that a hierarchy is judged and shown by: of every level as many, sample i made from sample i below."""

    videos: Several  # at sigma.metrics: for the metrics
    figures: Positive  # at sigma.figures: for the page
    # As a level is trained: windows of `training.window` frames of the samples below, by that level alone (Sec. 5.2).
    windows: Several


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
    conditions: dict[str, ConditionParams]  # of every level below the top
    samples: SampleParams
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

    @property
    def measured_window(self) -> int | None:
        """Frames of its condition that a window of the top level spans; None where it is trained on whole videos."""
        top = self.n_levels
        whole = self.view(max(top - 1, 1)).frames
        return None if self.window(top) == whole else self.window(top)

"""Values and combinations of params.yaml that no hierarchy can have."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipeline.params.sections import Params
from pipeline.paths import Paths, lies_in, origin
from pipeline.system.values import LARGEST

_MADE = "pyramid|conditions|samples"  # folders of data/ that stages make


def impossible(params: Params, root: Path) -> Iterator[tuple[str, str]]:
    """Keys of values and combinations that no hierarchy can have, and why not. Each check relies on those before it.

    root: the project's folder, which paths are from.
    """
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
    if set(params.conditions) != set(numbers[:-1]):
        yield "conditions", f"one for every level below the top, {numbers[:-1]}, not {list(params.conditions)}"
    for low, high in pairwise(numbers[:-1]):
        for name in ("train", "measure"):
            most = getattr(params.conditions[low], name)
            if getattr(params.conditions[high], name) > most:
                yield f"conditions.{high}.{name}", f"each needs one of level {low}, which makes {most}"
    data, decode, evaluation = params.data, params.decode, params.evaluation
    samples, frames = params.samples.videos, params.views[numbers[-1]].frames
    kept, store = decode.max_frames or decode.min_frames, decode.store or "file:///"
    listing = str(PurePosixPath(data.listing))  # without . and //
    odd = ", ".join(repr(k) for k in params.shapes if not re.fullmatch(f"(?!({_MADE})$)[a-z0-9][a-z0-9-]*", k))
    for key, wrong, why in (
        *chain.from_iterable(_of_level(params, int(number), Paths(origin(root))) for number in numbers),
        ("shapes", odd, f"{odd} names a folder of data/: small letters, digits and -, not {_MADE}"),
        ("data.attribute", data.attribute and data.layout != "bdd100k",
         f"must be null: only the layout bdd100k has label JSON, not {data.layout}"),
        ("data.image_rate", data.image_rate and data.layout not in ("folder", "table"),
         f"must be null: the layout {data.layout} knows no folders of images"),
        ("data.listing", not re.fullmatch(rf"data/(?!({_MADE})/)(?!.*\.\.(/|$)).*[^/]\.csv", listing),
         f"must be a .csv below data/, and outside of {_MADE} there"),
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
         f"there are only {samples} (samples.videos)"),
        ("evaluation.splits", (evaluation.splits or 0) > evaluation.videos, "more than evaluation.videos"),
        ("evaluation.psd_sets", evaluation.psd_sets > evaluation.videos, "more than evaluation.videos"),
        ("evaluation.psd_frames", not evaluation.psd_frames or max(evaluation.psd_frames) > frames,
         f"must be some of the top view's frames, 1 to {frames}"),
    ):  # fmt: skip
        if wrong:
            yield key, why


def _of_level(params: Params, number: int, paths: Paths) -> Iterator[tuple[str, Any, str]]:
    """Keys, whether their value is wrong, and why."""
    level, config = params.of_level(number), params.level(number, classes=0)
    generator, discriminators, training = level.generator, level.discriminators, level.training
    start = training.start
    first, top, condition = number == 1, config.view.size, config.condition or config.view
    labels = "data/pyramid/videos.parquet"
    made_of, shown = (labels if first else f"data/{place}/level-{number - 1}" for place in ("conditions", "samples"))
    conditions = params.conditions.get(str(number))
    units, blocks = len(generator.multipliers), len(discriminators.multipliers)
    smallest = min(top // 2, condition.size)
    yield (f"conditions.{number}.condition", conditions and conditions.condition != made_of, f"must be {made_of!r}")
    yield from ((f"levels.{number}.{key}", wrong, why) for key, wrong, why in (
        ("condition", level.condition != made_of, f"must be {made_of!r}"),
        ("below", level.below != shown, f"must be {shown!r}"),
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
        ("training.start", start and lies_in(paths.root / Path(start.path).expanduser(), paths.replaced),
         "training replaces what lies in artifacts and .hvg/work; `hvg run train --from` keeps a copy of it"),
    ))  # fmt: skip

"""Samples of some classes against all real videos of these (Table 4): `hvg table4`."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.store.reader import ViewReader
from pipeline.errors import UserError
from pipeline.metrics.evaluation import WHOLE_START, Evaluator, choose_clips
from pipeline.metrics.tables import class_table
from pipeline.params import Params
from pipeline.paths import Paths
from pipeline.workers import Workers

log = logging.getLogger(__name__)


def evaluate_classes(
    params: Params, paths: Paths, store: Path, workers: Workers
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A class_table of a store's samples of the top level, against the real videos of all splits, and its protocol.

    A class at a time: what is measured of one is forgotten before the next. Raises UserError where none can be
    measured.
    """
    evaluator = Evaluator(params, paths, workers)
    readers = [ViewReader(place, evaluator.top, in_memory=0) for place in (paths.pyramid, store)]
    if (sigmas := set(readers[1].videos["sigma"])) != {params.sigma.metrics}:
        drawn = ", ".join(map(str, sorted(sigmas)))
        raise UserError(f"{store}: drawn at sigma {drawn}, not sigma.metrics; `hvg table4` with a new OUT draws others")
    chosen = [choose_clips(params, reader, "class", len(reader)) for reader in readers]
    frames, splits, tables = params.view(evaluator.top).frames, params.evaluation.splits and 1, []
    for label, name in enumerate(readers[0].classes):
        sides = [
            (reader, [clip for clip in clips if reader.labels[clip[0]] == label])
            for reader, clips in zip(readers, chosen, strict=True)
        ]
        real, generated = (len(clips) for _, clips in sides)
        if generated and min(real, generated) < 2:
            log.warning("class %r is left out: it has %d real videos and %d samples", name, real, generated)
        elif generated:
            of_real, of_samples = (evaluator.measured_before(reader, clips, frames) for reader, clips in sides)
            tables.append(class_table(evaluator.networks, of_real, of_samples, readers[0].classes, splits))
    if not tables:
        raise UserError(f"{store}: no class of two samples and two real videos of {frames} frames")
    table = pd.concat(tables, ignore_index=True)
    counts = {f"{side}_videos": int(table[side].to_numpy().sum()) for side in ("real", "generated")}
    of = {"frames": frames, "start": WHOLE_START, "real_split": "all", "splits": splits}
    return table, evaluator.protocol(readers[1], **of, **counts)

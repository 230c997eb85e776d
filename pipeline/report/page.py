"""The numbers of a page: every metric with what it means and the paper's beside it, the protocol, the classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.params import Params
from pipeline.report import paper

# Better, unit, and what it says, by the name of the metric or its beginning.
_METRICS = {
    "fvd": ("lower", "", "Frechet distance of the logits of an I3D trained on Kinetics-400"),
    "fid_k400": ("lower", "", "Frechet distance of the 1024 pooled features of the I3D of fvd; no FID"),
    "fid": ("lower", "", "Frechet distance of the 1024 pooled features of an I3D trained on Kinetics-600"),
    "kvd": ("lower", "", "kernel distance of the logits of the I3D of fvd, about 0 at best; of any number of videos"),
    "precision": ("higher", "", "share of samples that lie among the real clips; low where they look like none"),
    "recall": ("higher", "", "share of real clips that lie among the samples; low where these lack variety"),
    "inception_score_deviation": ("", "", "standard deviation of the inception score over splits"),
    "inception_score": ("higher", "", "inception score under an I3D trained on Kinetics-400"),
    "random_i3d_frechet_logits": ("lower", "", "Frechet distance of the logits of a random I3D; no FVD"),
    "random_i3d_frechet_pooled": ("lower", "", "Frechet distance of the pooled features of a random I3D; no FID"),
    "random_i3d_kernel_logits": ("lower", "", "kernel distance of the logits of a random I3D; no KVD"),
    "random_i3d_precision": ("higher", "", "precision by the logits of a random I3D"),
    "random_i3d_recall": ("higher", "", "recall by the logits of a random I3D"),
    "probe_accuracy_real": ("", "", "share of held-out real clips whose class a linear probe of I3D features tells"),
    "probe_accuracy_generated": ("higher", "", "share of samples whose class the probe tells; at best as real clips"),
    "motion_real": ("", "grey levels", "mean difference of successive frames of real clips"),
    "motion_generated": ("", "grey levels", "mean difference of successive frames of samples; as real clips is best"),
    "grounding_psnr_level_": ("higher", "dB", "how closely a level's samples, scaled down, keep to their condition"),
}


@dataclass(frozen=True)
class Metric:
    """A row of a table: a value of ours and of each that stands beside it, as text; nothing where one has none.

    better: higher, lower or nothing. best: which of the values is the better one; None where that cannot be said.
    """

    name: str
    values: tuple[str, ...]
    unit: str = ""
    better: str = ""
    meaning: str = ""
    best: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The numbers of clips of one length. paper: the rows of the paper that stand beside them; why not others."""

    title: str
    paper: list[paper.PaperRow]
    why: str
    metrics: list[Metric]
    protocol: dict[str, str]


def measurements(params: Params, classes: int, evaluation: Mapping[str, Any]) -> list[Measurement]:
    """What metrics.json and protocol.json hold: of whole videos and, where there are any, of windows.

    Of these the protocol is what differs from that of the whole videos.

    The paper's windows are made as ours of the first kind; beside those that are cut out nothing stands.
    """
    parts: list[Measurement] = []
    for name, metrics, of in (
        ("Whole videos", "metrics", "protocol"),
        ("Windows as in training", "windows", "windows_protocol"),
        ("Windows cut out of whole videos", "cut_windows", "cut_windows_protocol"),
    ):
        if metrics in evaluation:
            protocol = evaluation[of]
            cut = metrics == "cut_windows"
            compared = paper.rows_beside(params, classes, protocol, set(evaluation[metrics]))
            beside, why = ([], "The paper's windows are not cut out of whole videos.") if cut else compared
            whole = parts[0].protocol if parts else {}
            part = Measurement(
                title=f"{name}: {protocol['frames']} frames",
                paper=beside,
                why=why,
                metrics=metric_rows(evaluation[metrics], beside),
                protocol={key: text for key, text in protocol_rows(protocol).items() if whole.get(key) != text},
            )
            parts.append(part)
    return parts


def metric_rows(metrics: Mapping[str, float], beside: list[paper.PaperRow]) -> list[Metric]:
    """The metrics in their order, each with what it means and the paper's numbers."""
    rows = []
    for name, value in metrics.items():
        theirs = [f"{row.numbers[name]:.2f}" if name in row.numbers else "" for row in beside]
        better, unit, meaning = explained(name)
        rows.append(Metric(name, (f"{value:.4g}", *theirs), unit, better, meaning))
    return rows


def explained(name: str) -> tuple[str, str, str]:
    """Which direction is better (higher, lower or nothing), the unit and the meaning of a metric."""
    key = next((key for key in _METRICS if name.startswith(key)), None)
    better, unit, meaning = _METRICS[key] if key is not None else ("", "", "")
    if name.endswith("_infinity"):
        meaning += "; of infinitely many videos, by a line in 1/N"
    return better, unit, meaning


def class_table(params: Params, classes: int, by_class: pd.DataFrame, protocol: Mapping[str, Any]) -> pd.DataFrame:
    """Numbers by class, as texts, the closest by the last of the Frechet distances first; empty without classes.

    The paper's stand in columns of their own, behind ours.
    """
    distances = [name for name in by_class.columns if name.startswith(("fvd", "fid", "random_i3d_frechet"))]
    table = by_class.sort_values(distances[-1:])
    theirs = [paper.class_numbers(params, classes, protocol, row) for row in table.to_dict("records")]
    known = [name for name in table.columns if any(name in numbers for numbers in theirs)]
    beside = pd.DataFrame(theirs, index=table.index, columns=known).add_suffix(f", {paper.CLASS_TABLE}")
    return table.join(beside).astype(object).fillna("").map(_plain)


def protocol_rows(protocol: Mapping[str, Any]) -> dict[str, str]:
    """A protocol in words; protocol.json has the whole digests."""
    return {key.replace("_", " "): _plain(value) for key, value in protocol.items()}


def _plain(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else str(value)
    return f"{text[:16]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def of_random_weights(measured: list[Measurement]) -> bool:
    """Whether some number is of an I3D with random weights."""
    return any(metric.name.startswith("random_i3d") for part in measured for metric in part.metrics)

"""The page: everything it shows as plain values, and its template."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.facts import Decoded
from pipeline.report.showcase import Showcase

_TEMPLATE = Path(__file__).parent / "template"

# Better, unit, and what it says, by the name of the metric or its beginning.
_METRICS = {
    "fvd": ("lower", "", "Frechet distance of the logits of an I3D trained on Kinetics-400"),
    "fid": ("lower", "", "Frechet distance of the 1024 pooled features of an I3D trained on Kinetics-600"),
    "inception_score_deviation": ("", "", "standard deviation of the inception score over splits"),
    "inception_score": ("higher", "", "inception score under an I3D trained on Kinetics-400"),
    "random_i3d_frechet_logits": ("lower", "", "Frechet distance of the logits of a random I3D; no FVD"),
    "random_i3d_frechet_pooled": ("lower", "", "Frechet distance of the pooled features of a random I3D; no FID"),
    "grounding_psnr_level_": ("higher", "dB", "how closely a level's samples, scaled down, keep to their condition"),
}


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    value: str
    unit: str
    better: str  # higher, lower or nothing
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows. Strings are plain text: the template escapes every one."""

    levels: list[str]
    classes: int
    sigma: float  # of the noise behind the samples shown
    show: Showcase
    metrics: list[Metric]
    protocol: dict[str, str]
    curves: dict[str, list[Markup]]  # by level
    spectra: list[Markup]
    decoded: Decoded
    environment: dict[str, str]
    runs: list[dict[str, str]]  # of MLflow, alike in their keys
    params: str  # the text of params.yaml


def render(page: Page) -> str:
    """The page as one HTML file, whose only other files are the media beside it."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(page=page, random=_any_random(page.metrics))


def metric_rows(metrics: dict[str, float]) -> list[Metric]:
    """The metrics in their order, each with what it means."""
    rows = []
    for name, value in metrics.items():
        key = next((key for key in _METRICS if name.startswith(key)), None)
        better, unit, meaning = _METRICS[key] if key is not None else ("", "", "")
        rows.append(Metric(name, f"{value:.4g}", unit, better, meaning))
    return rows


def protocol_rows(protocol: dict[str, Any]) -> dict[str, str]:
    """A protocol in words; metrics.json has the whole digests."""
    return {key.replace("_", " "): _plain(value) for key, value in protocol.items()}


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value)
    return f"{text[:16]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def _any_random(metrics: list[Metric]) -> bool:
    return any(metric.name.startswith("random_i3d") for metric in metrics)

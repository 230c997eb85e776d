"""Curves, spectra, motion and error bars as inline SVG that takes its colours and type from the page."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

# matplotlib knows no CSS variables: colours that stand for them, replaced in the finished SVG. The page defines them
# twice, for light and dark.
_INK, _FAINT = "#010203", "#010204"
_SERIES = ("#010205", "#010206", "#010207", "#010208")
_VARIABLES = {
    _INK: "var(--ink-2)",
    _FAINT: "var(--line)",
    **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {  # Any: matplotlib's type is a literal of all its keys
    "svg.fonttype": "none",  # text stays text: readable by screen readers, set in the page's type
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_FAMILIES = ("loss", "hinge", "gradient_norm", "sigma_generator", "sigma_discriminator")
BARS = 12  # of a histogram
_SIDES = ("real", "generated")
_SIZE = (3.1, 2.05)  # inches; the page scales them


def panels(columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Which columns of a history share a panel: {panel: {series: column}}.

    A family of columns, such as the losses, is one panel; what differs in `real` and `fake` alone, as
    accuracy_real_spatial and accuracy_fake_spatial, is another; everything else stands alone.
    """
    grouped: dict[str, dict[str, str]] = {}
    for column in columns:
        words = column.split("_")
        side = next((word for word in words if word in ("real", "fake")), None)
        family = next((family for family in _FAMILIES if column.startswith(f"{family}_")), None)
        if family is not None:
            panel, series = family.replace("_", " "), column.removeprefix(f"{family}_").replace("_", " ")
        elif side is not None and len(words) > 1:
            panel, series = " ".join(word for word in words if word != side), side
        else:
            panel, series = column.replace("_", " "), ""
        grouped.setdefault(panel, {})[series] = column
    return grouped


def curves(history: pd.DataFrame, level: int) -> list[Markup]:
    """A small plot for each panel of a level's history, whose first column is `step`."""
    plots: list[Markup] = []
    for panel, series in panels(c for c in history.columns if c != "step").items():
        # A metric is measured less often than losses are logged.
        known = {name: history.set_index("step")[column].dropna() for name, column in series.items()}
        ends = [
            f"{name} from {line.iloc[0]:.3g} to {line.iloc[-1]:.3g}" if len(line) else f"{name} not measured"
            for name, line in known.items()
        ]
        says = f"by iteration, {'; '.join(end.strip() for end in ends)}"
        with _plot(plots, panel, says, of=f"level {level}") as axes:
            for color, (name, line) in zip(_SERIES, known.items(), strict=False):
                axes.plot(line, color=color, linewidth=1.3, label=name)
            axes.set_xlabel("iteration")
            axes.set_xlim(0, max([1, *history["step"]]))
            axes.margins(y=0.08)
            if panel.startswith("accuracy"):
                axes.set_ylim(-0.03, 1.03)
    return plots


def spectra(psd: pd.DataFrame) -> list[Markup]:
    """A small plot for each frame: mean power and its deviation over sets, real and generated (Fig. 10)."""
    plots: list[Markup] = []
    varying: Any = psd[psd["cycles"] > 0]
    means = varying[["real_mean", "generated_mean"]].to_numpy()
    positive = means[means > 0]
    # The same power axis for every frame: a loss of high frequencies over time is what the plots are for.
    low, high = (positive.min() / 2, positive.max() * 2) if positive.size else (1e-6, 1.0)
    for frame, rows in varying.groupby("frame"):
        finest = ", ".join(f"{side} {rows[f'{side}_mean'].iloc[-1]:.2g}" for side in _SIDES)
        with _plot(plots, f"frame {frame}", f"power by cycles a frame; at the finest, {finest}") as axes:
            _both_sides(axes, rows, "cycles", low)
            axes.set(xscale="log", yscale="log", ylim=(low, high), xlabel="cycles a frame", ylabel="power")
            axes.grid(True, which="major")
    return plots


def motion(table: pd.DataFrame) -> list[Markup]:
    """One plot of the mean difference of successive frames at each time step and its deviation over videos."""
    plots: list[Markup] = []
    if len(table):
        means = ", ".join(f"{side} {table[f'{side}_mean'].mean():.3g}" for side in _SIDES)
        with _plot(plots, "motion", f"difference of successive frames in grey levels; on average, {means}") as axes:
            _both_sides(axes, table, "step", 0)
            axes.set(xlabel="from frame", ylabel="grey levels")
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
    return plots


def by_count(table: pd.DataFrame) -> list[Markup]:
    """A plot for each metric: its mean over draws of n different videos, and error bars from `low` to `high`.

    The bars are of bootstrap resamples, which repeat videos: the mean is not theirs. Where the metric has a line in
    1 / n, that, and where it ends at infinity.
    """
    plots: list[Markup] = []
    for metric, rows in table.groupby("metric", sort=False) if len(table) else ():
        n, mean, infinity = rows["n"], rows["mean"], rows["infinity"].iloc[0]
        says = ", ".join(f"{value:.3g} of {count:,} videos" for count, value in zip(n, mean, strict=True))
        if known := np.isfinite(infinity):
            says += f"; {infinity:.3g} of infinitely many"
        with _plot(plots, str(metric), says) as axes:
            bars = [(mean - rows["low"]).clip(lower=0), (rows["high"] - mean).clip(lower=0)]
            axes.errorbar(n, mean, yerr=bars, color=_SERIES[0], linewidth=1.3, marker="o", markersize=3, capsize=2.5)
            if known:
                axes.plot(n, infinity + rows["slope"] / n, color=_SERIES[1], linewidth=1, label="line in 1/N")
                axes.axhline(infinity, color=_SERIES[1], linewidth=1, linestyle="--", label="∞")
            axes.set_xscale("log")
            axes.set_xticks(n, [f"{int(count):,}" for count in n])
            axes.set_xlabel("videos")
    return plots


def histogram(title: str, unit: str, values: Iterable[Any]) -> Markup:
    """A plot of how many videos have which value: a bar each for a few values, else one for each of BARS ranges.

    What lies far behind the 99th percentile shares the last bar; of too many names the most frequent are shown.
    """
    known = pd.Series(list(values)).dropna()
    counts = known.value_counts().nlargest(BARS).sort_index()
    numbers = pd.api.types.is_numeric_dtype(known)
    if known.empty:
        says = "not known"
    elif numbers:
        says = f"{known.min():.6g} to {known.max():.6g}, median {known.median():.6g}"
    else:
        says = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    plots: list[Markup] = []
    with _plot(plots, title, f"{unit}: {says}") as axes:
        if numbers and known.nunique() > BARS:
            axes.hist(known.clip(upper=known.quantile(0.99)), bins=BARS, color=_SERIES[0], rwidth=0.9)
        else:
            axes.bar([f"{value:g}" if numbers else str(value) for value in counts.index], counts, color=_SERIES[0])
            axes.tick_params(axis="x", rotation=45 if len(counts) > 4 else 0)
        axes.set(xlabel=unit, ylabel="videos")
        axes.grid(visible=False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True)
    return plots[0]


def _both_sides(axes: Any, table: Any, x: str, least: float) -> None:
    """The means of real and generated videos, and their deviations down to `least`."""
    for color, side in zip(_SERIES, _SIDES, strict=False):
        mean, deviation = table[f"{side}_mean"], table[f"{side}_deviation"]
        axes.plot(table[x], mean, color=color, linewidth=1.4, label=side)
        below = (mean - deviation).clip(lower=least)
        axes.fill_between(table[x], below, mean + deviation, color=color, alpha=0.22, linewidth=0)


@contextmanager
def _plot(plots: list[Markup], title: str, says: str, *, of: str = "") -> Iterator[Any]:
    """The axes of a further plot, for the block to draw on.

    `says` tells what it shows to those who do not see it, `of` another of the same title from this one.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"{title} {of}"}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot(title=title)
        yield axes
        axes.minorticks_off()
        if len(axes.get_legend_handles_labels()[0]) > 1:
            beside = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
            axes.legend(**beside, ncols=4, handlelength=1.0, columnspacing=1.0)  # on the title's line, clear of curves
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plots.append(_inline(buffer.getvalue(), f"{title}: {says}"))


def _inline(svg: str, label: str) -> Markup:
    """matplotlib's file as part of a page: its colours and type, no ids that another plot has too."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    body = re.sub(r' id="[\w.]+_\d+"', "", body)  # groups; what is referred to is named by a hash of its content
    width, height = (round(72 * inches, 1) for inches in _SIZE)
    head = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" xmlns:xlink="http://www.w3.org/1999/xlink">')
    return head.format(label, width, height) + Markup(body)  # noqa: S704 - matplotlib escapes the text it draws

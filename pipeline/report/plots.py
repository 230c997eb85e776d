"""Curves, spectra, motion and error bars as inline SVG that takes its colours and type from the page."""

import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float64
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
    "svg.hashsalt": "hvg",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
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
_SIZE = (3.1, 2.05)  # inches; the page scales them


def panels(columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Which columns of a history share a panel: {panel: {series: column}}.

    A family of columns, such as the losses, is one panel; what differs in `real` and `fake` alone, as
    accuracy_real_spatial and accuracy_fake_spatial, is another; everything else stands alone.
    """
    found: dict[str, dict[str, str]] = {}
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
        found.setdefault(panel, {})[series] = column
    return found


def curves(history: pd.DataFrame, level: int) -> list[Markup]:
    """A small plot for each panel of a level's history, whose first column is `step`."""
    plots = []
    for panel, series in panels(c for c in history.columns if c != "step").items():
        # A metric is measured less often than losses are logged.
        known = {name: history.loc[history[column].notna(), ["step", column]] for name, column in series.items()}
        ends = [_ends(name, rows.to_numpy(float)[:, 1]) for name, rows in known.items()]

        def draw(axes: Any, panel: str = panel, known: dict[str, Any] = known) -> None:
            for color, (name, rows) in zip(_SERIES, known.items(), strict=False):
                axes.plot(rows["step"], rows.iloc[:, 1], color=color, linewidth=1.3, label=name)
            axes.set_xlabel("iteration")
            axes.set_xlim(0, max(history["step"].max(), 1))
            axes.margins(y=0.08)
            if panel.startswith("accuracy"):
                axes.set_ylim(-0.03, 1.03)

        plots.append(
            _plot(panel, f"by iteration, {'; '.join(ends)}", draw, legend=len(series) > 1, of=f"level {level}")
        )
    return plots


def spectra(psd: pd.DataFrame) -> list[Markup]:
    """A small plot for each frame: mean power and its deviation over sets, real and generated (Fig. 10)."""
    plots = []
    low, high = _limits(psd)
    for frame in sorted(set(psd["frame"])):
        rows = psd[(psd["frame"] == frame) & (psd["cycles"] > 0)]
        columns = {name: np.asarray(rows[name]) for name in rows.columns}

        def draw(axes: Any, columns: dict[str, Any] = columns) -> None:
            cycles = columns["cycles"]
            for color, side in zip(_SERIES, ("real", "generated"), strict=False):
                mean, deviation = columns[f"{side}_mean"], columns[f"{side}_deviation"]
                axes.plot(cycles, mean, color=color, linewidth=1.4, label=side)
                below = (mean - deviation).clip(min=low)
                axes.fill_between(cycles, below, mean + deviation, color=color, alpha=0.22, linewidth=0)
            axes.set(xscale="log", yscale="log", ylim=(low, high), xlabel="cycles a frame", ylabel="power")
            axes.grid(True, which="major")

        finest = {side: columns[f"{side}_mean"][-1] for side in ("real", "generated")}
        says = f"power by cycles a frame; at the finest, {', '.join(f'{side} {v:.2g}' for side, v in finest.items())}"
        plots.append(_plot(f"frame {frame}", says, draw, legend=True))
    return plots


def motion(table: pd.DataFrame) -> list[Markup]:
    """One plot of the mean difference of successive frames at each time step and its deviation over videos."""
    if table.empty:
        return []
    columns = {name: table[name].to_numpy() for name in table.columns}

    def draw(axes: Any) -> None:
        for color, side in zip(_SERIES, ("real", "generated"), strict=False):
            mean, deviation = columns[f"{side}_mean"], columns[f"{side}_deviation"]
            axes.plot(columns["step"], mean, color=color, linewidth=1.4, label=side)
            below = (mean - deviation).clip(min=0)
            axes.fill_between(columns["step"], below, mean + deviation, color=color, alpha=0.22, linewidth=0)
        axes.set(xlabel="from frame", ylabel="grey levels")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)

    means = ", ".join(f"{side} {columns[f'{side}_mean'].mean():.3g}" for side in ("real", "generated"))
    return [_plot("motion", f"difference of successive frames in grey levels; on average, {means}", draw, legend=True)]


def by_count(table: pd.DataFrame) -> list[Markup]:
    """A plot for each metric: its mean over draws of n different videos, and error bars from `low` to `high`.

    The bars are of bootstrap resamples, which repeat videos: the mean is not theirs.
    """
    plots = []
    for metric in dict.fromkeys(table["metric"] if len(table) else ()):
        rows = table[table["metric"] == metric]
        columns = {name: np.asarray(rows[name]) for name in ("n", "mean", "low", "high")}

        def draw(axes: Any, columns: dict[str, Any] = columns) -> None:
            n, mean = columns["n"], columns["mean"]
            bars = np.stack([mean - columns["low"], columns["high"] - mean]).clip(min=0)
            axes.errorbar(n, mean, yerr=bars, color=_SERIES[0], linewidth=1.3, marker="o", markersize=3, capsize=2.5)
            axes.set_xscale("log")
            axes.set_xticks(n, [f"{int(count):,}" for count in n])
            axes.set_xlabel("videos")

        says = ", ".join(f"{mean:.3g} of {n:,} videos" for n, mean in zip(columns["n"], columns["mean"], strict=True))
        plots.append(_plot(str(metric), says, draw, legend=False))
    return plots


def histogram(title: str, unit: str, values: Iterable[Any]) -> Markup:
    """A plot of how many videos have which value: a bar each for a few values, else one for each of BARS ranges.

    What lies far behind the 99th percentile shares the last bar; of too many names the most frequent are shown.
    """
    known = pd.Series(list(values)).dropna()
    counts = known.value_counts().nlargest(BARS).sort_index()
    numbers = pd.api.types.is_numeric_dtype(known)

    def draw(axes: Any) -> None:
        if numbers and known.nunique() > BARS:
            axes.hist(known.clip(upper=known.quantile(0.99)), bins=BARS, color=_SERIES[0], rwidth=0.9)
        else:
            axes.bar([f"{value:g}" if numbers else str(value) for value in counts.index], counts, color=_SERIES[0])
            axes.tick_params(axis="x", rotation=45 if len(counts) > 4 else 0)
        axes.set(xlabel=unit, ylabel="videos")
        axes.grid(visible=False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True)

    if known.empty:
        says = "not known"
    elif numbers:
        says = f"{known.min():.6g} to {known.max():.6g}, median {known.median():.6g}"
    else:
        says = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    return _plot(title, f"{unit}: {says}", draw, legend=False)


def _ends(name: str, values: Float64[np.ndarray, " values"]) -> str:
    """What a line does, for those who do not see it."""
    return f"{name} from {values[0]:.3g} to {values[-1]:.3g}".strip() if len(values) else f"{name} not measured".strip()


def _limits(psd: pd.DataFrame) -> tuple[float, float]:
    """The same power axis for every frame: a loss of high frequencies over time is what the plots are for."""
    means = psd.loc[psd["cycles"] > 0, ["real_mean", "generated_mean"]].to_numpy()
    positive = means[means > 0]
    return (positive.min() / 2, positive.max() * 2) if positive.size else (1e-6, 1.0)


def _plot(title: str, says: str, draw: Callable[[Any], None], *, legend: bool, of: str = "") -> Markup:
    """A plot under a title; `says` tells what it shows to those who do not see it, `of` another of the same title from
    this one.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"{title} {of}"}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, fontweight="bold")
        axes.minorticks_off()
        if legend:
            beside = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
            axes.legend(**beside, ncols=4, handlelength=1.0, columnspacing=1.0)  # on the title's line, clear of curves
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), f"{title}: {says}")


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

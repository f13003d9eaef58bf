"""Figures of a sweep: label efficiency, parallel coordinates, and what each setting explains of the result."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_lidarseg.report.curves import PALETTE, finish

RATIO = "split.ratio"
_BINS = 4  # of an interval, for its importance: ours
_LOG_FROM = 30.0  # an axis whose ends are so many times apart is logarithmic: ours
_MAX_LINES = len(PALETTE)

Row = Mapping[str, Any]


def label_efficiency(rows: Sequence[Row], dimensions: Sequence[str], metric: str) -> Figure | None:
    """The metric over the share of labels, mean ± standard deviation over seeds, a line for each other combination.

    None where labels were not varied, or where more lines than colours would be needed: then the parallel coordinates
    show them.
    """
    if RATIO not in dimensions or len({row[RATIO] for row in rows}) < 2:
        return None
    others = [name for name in dimensions if name != RATIO]
    lines: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        name = ", ".join(_words(row[other]) for other in others) or metric
        lines.setdefault(name, {}).setdefault(float(row[RATIO]), []).append(100 * row[metric])
    if len(lines) > _MAX_LINES:
        return None
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for colour, (name, points) in zip(PALETTE, lines.items(), strict=False):
        ratios = sorted(points)
        means = np.array([fmean(points[ratio]) for ratio in ratios])
        spread = np.array([stdev(points[ratio]) if len(points[ratio]) > 1 else 0.0 for ratio in ratios])
        shares = [100 * ratio for ratio in ratios]
        axes.plot(shares, means, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
        axes.fill_between(shares, means - spread, means + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks([100 * ratio for ratio in sorted({float(row[RATIO]) for row in rows})])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    finish(axes, f"{metric}, % (mean ± standard deviation over seeds)", "labelled frames, %")
    axes.legend(frameon=False, fontsize=9)
    return figure


def parallel_coordinates(rows: Sequence[Row], dimensions: Sequence[str], metric: str) -> Figure | None:
    """Every trial as a line across its settings to its result, the better the darker; None for less than two trials."""
    if len(rows) < 2:
        return None
    names = [*dimensions, metric]
    figure = Figure(figsize=(max(6.4, 1.9 * len(names)), 4.2), layout="constrained")
    axes = figure.subplots()
    heights = {name: _heights(axes, place, [row[name] for row in rows]) for place, name in enumerate(names)}
    results = np.array([row[metric] for row in rows], float)
    span = float(np.ptp(results)) or 1.0
    for index in np.argsort(results):
        share = float((results[index] - results.min()) / span)
        colour = colormaps["viridis_r"](0.1 + 0.9 * share)
        across = [heights[name][index] for name in names]
        axes.plot(range(len(names)), across, color=colour, linewidth=1.2, alpha=0.85)
    finish(axes, f"all trials: settings, and {metric} at the right (dark: better)", "")
    axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    return figure


def importance_bars(rows: Sequence[Row], dimensions: Sequence[str], metric: str) -> Figure | None:
    """``importance`` of every setting and of the seed; None where it says nothing."""
    shares = {name: importance([row[name] for row in rows], [row[metric] for row in rows]) for name in dimensions}
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        return None
    ordered = sorted(known.items(), key=lambda item: item[1])
    figure = Figure(figsize=(6.4, 0.8 + 0.38 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    names = [name.replace("$", r"\$") for name, _ in ordered]
    axes.barh(names, [100 * share for _, share in ordered], color=PALETTE[0], height=0.6)
    axes.set_xlim(0, 100)
    finish(axes, f"what a setting explains of {metric} by itself, % of the variance", "")
    axes.grid(axis="y", visible=False)
    return figure


def importance(settings: Sequence[Any], results: Sequence[float]) -> float | None:
    """The share of the results' variance that lies between the groups of one setting, less what chance would give.

    ``1 - (within / (n - k)) / (total / (n - 1))`` of n results in k groups, at least 0; numbers of more than four
    values are grouped in four bins of equal count. None where there is one group, no variance, or no group of two.

    Source: Kelley's epsilon squared (1935), the correlation ratio without its bias.
    """
    groups = _groups(settings)
    values = np.asarray(results, float)
    count, kinds = len(values), len(set(groups))
    total = float(((values - values.mean()) ** 2).sum()) if count else 0.0
    if kinds < 2 or count <= kinds or not total:
        return None
    of = np.asarray(groups)
    within = sum(float(((values[of == kind] - values[of == kind].mean()) ** 2).sum()) for kind in set(groups))
    return max(0.0, 1 - (within / (count - kinds)) / (total / (count - 1)))


def _groups(settings: Sequence[Any]) -> list[int]:
    if _are_numbers(settings) and len(set(settings)) > _BINS:
        order = np.argsort(np.argsort(np.asarray(settings, float), kind="stable"), kind="stable")
        return [int(place) for place in order * _BINS // len(settings)]
    known = list(dict.fromkeys(settings))
    return [known.index(value) for value in settings]


def _heights(axes: Axes, place: int, values: Sequence[Any]) -> list[float]:
    """Where a setting's values lie between 0 and 1; writes its ends, or its names, beside the axis."""
    axes.axvline(place, color="#9ca3af", linewidth=0.8)
    if _are_numbers(values):
        numbers = np.asarray(values, float)
        is_log = numbers.min() > 0 and numbers.max() / numbers.min() > _LOG_FROM
        scaled = np.log(numbers) if is_log else numbers
        span = float(np.ptp(scaled))
        heights = (scaled - scaled.min()) / span if span else np.full(len(values), 0.5)
        ends = {float(heights.min()): numbers.min(), float(heights.max()): numbers.max()}
    else:
        known = sorted(dict.fromkeys(map(str, values)))
        heights = np.array([(known.index(str(value)) + 0.5) / len(known) for value in values])
        ends = {(index + 0.5) / len(known): name for index, name in enumerate(known)}
    for height, end in ends.items():
        axes.text(place + 0.03, height, _words(end), fontsize=7.5, color="#374151", va="center")
    return [float(height) for height in heights]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _words(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return text.replace("$", r"\$")

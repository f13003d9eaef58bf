"""Figures of numbers: learning curves and per-class bars, one colour per run throughout."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ray_lidarseg.report.run_summary import RunView

PALETTE = ("#2563eb", "#ea580c", "#059669", "#c026d3", "#b45309", "#0891b2", "#dc2626", "#4b5563")
"""Colour of run i, modulo; dark enough on white for lines and text."""

_DPI = 150
_INK, _GRID = "#374151", "#e5e7eb"


def png(figure: Figure) -> bytes:
    """The figure as a PNG without metadata."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def learning_curves(views: Sequence[RunView]) -> Figure | None:
    """Loss, mIoU and pseudo-label keep ratio over steps; None where no run has logged anything."""
    panels: list[tuple[str, Callable[[Axes, RunView, str], None]]] = []
    if any(view.lines("train") for view in views):
        panels.append(("training loss", _draw_loss))
    if any(view.lines("evaluate") for view in views):
        panels.append(("point mIoU, % (solid: deployed, dashed: other)", _draw_miou))
    if any(_kept(line) is not None for view in views for line in view.lines("train")):
        panels.append(("pseudo-labels kept, %", _draw_kept))
    if not panels:
        return None
    figure = Figure(figsize=(4.3 * len(panels), 3.2), layout="constrained")
    for axes, (title, draw) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, view in enumerate(views):
            draw(axes, view, PALETTE[index % len(PALETTE)])
        finish(axes, title, "step")
    _legend(figure, views)
    return figure


def diagnosis(views: Sequence[RunView]) -> Figure | None:
    """Why runs gained or did not: models and pseudo-labels on unlabelled scans; None where none was diagnosed.

    Over steps, mIoU of the models and share and precision of pseudo-labels; of the last diagnosis, the share of each
    class's points that got the right pseudo-label (what is never taught cannot be learnt).
    """
    shown = [(PALETTE[index % len(PALETTE)], view) for index, view in enumerate(views) if view.lines("diagnose")]
    if not shown:
        return None
    labelling = [(colour, view, lines[-1]) for colour, view in shown if (lines := _with_pseudo_labels(view))]
    figure = Figure(figsize=(12.9, 3.2 if not labelling else 6.2), layout="constrained")
    rows = figure.subfigures(2, 1) if labelling else [figure]
    above = np.atleast_1d(rows[0].subplots(1, 2 if labelling else 1))
    for colour, view in shown:
        _draw_unlabelled_miou(above[0], view, colour)
    finish(above[0], "mIoU on unlabelled scans, % (solid: teacher or only model, dashed: other)", "step")
    if labelling:
        for colour, view, _ in labelling:
            _draw_pseudo_labels(above[1], view, colour)
        finish(above[1], "pseudo-labels, % (solid: right ones among them, dotted: points that have one)", "step")
        _draw_recall(rows[1].subplots(), labelling)
    _legend(figure, [view for _, view in shown])
    return figure


def class_bars(views: Sequence[RunView]) -> Figure | None:
    """Point IoU of every class, one bar a run; None where no run was evaluated."""
    shown = [(index, view) for index, view in enumerate(views) if view.class_iou()]
    if not shown:
        return None
    names = shown[0][1].taxonomy.class_names
    figure = Figure(figsize=(12.9, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for place, (index, view) in enumerate(shown):
        heights = [100 * (value or 0.0) for value in view.class_iou()]
        offsets = np.arange(len(names)) + (place - (len(shown) - 1) / 2) * width
        axes.bar(offsets, heights, width * 0.92, color=PALETTE[index % len(PALETTE)], label=view.name)
    points = next((view.details().get("point", {}).get("class_points") for _, view in shown if view.evaluation), None)
    ticks = [name.replace("_", " ") for name in names]
    ticks = [f"{tick}\n{count:,}" for tick, count in zip(ticks, points, strict=True)] if points else ticks
    axes.set_xticks(range(len(names)), ticks, rotation=35, ha="right")
    below = "; below: points scored" if points else ""
    finish(axes, f"point IoU by class, % (model to deploy{below})", "")
    axes.grid(axis="x", visible=False)
    _legend(figure, [view for _, view in shown])
    return figure


def ranges_and_reliability(views: Sequence[RunView]) -> Figure | None:
    """Point mIoU by distance, and accuracy over confidence; None where no evaluation has either."""
    shown = [
        (PALETTE[index % len(PALETTE)], view) for index, view in enumerate(views) if "calibration" in view.details()
    ]
    if not shown:
        return None
    figure = Figure(figsize=(12.9, 3.4), layout="constrained")
    ranged, reliable = figure.subplots(1, 2, width_ratios=(2, 1))
    with_ranges = [(colour, view) for colour, view in shown if "by_range" in view.details()]
    width = 0.8 / max(len(with_ranges), 1)
    for place, (colour, view) in enumerate(with_ranges):
        heights = [100 * (part["miou_ratio"] or 0.0) for part in view.details()["by_range"]]
        offsets = np.arange(len(heights)) + (place - (len(with_ranges) - 1) / 2) * width
        ranged.bar(offsets, heights, width * 0.92, color=colour, label=view.name)
    if with_ranges:
        parts = with_ranges[0][1].details()["by_range"]
        ranged.set_xticks(range(len(parts)), [f"{part['range']}\n{part['points']:,}" for part in parts])
    finish(ranged, "point mIoU by distance, % (below: points scored)", "")
    ranged.grid(axis="x", visible=False)
    reliable.plot([0, 100], [0, 100], color=_GRID, linewidth=1.2)
    for colour, view in shown:
        bins = [part for part in view.details()["calibration"]["bins"] if part["points"]]
        x, y = ([100 * part[name] for part in bins] for name in ("confidence", "accuracy"))
        error = view.details()["calibration"]["ece_ratio"]
        label = None if with_ranges else view.name
        reliable.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)
        if error is not None and len(shown) == 1:
            reliable.text(4, 90, f"ECE {100 * error:.1f} %", fontsize=9, color=_INK)
    reliable.set_xlim(0, 100)
    reliable.set_ylim(0, 100)
    finish(reliable, "right, % of points", "confidence, %")
    _legend(figure, [view for _, view in shown])
    return figure


def corruption_bars(views: Sequence[RunView]) -> Figure | None:
    """Point mIoU clean and under each corruption, bars of the mean and marks of each severity; None without any."""
    shown = [(PALETTE[index % len(PALETTE)], view) for index, view in enumerate(views) if view.robustness]
    if not shown:
        return None
    names = list(shown[0][1].robustness["corruptions"])
    figure = Figure(figsize=(12.9, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for place, (colour, view) in enumerate(shown):
        parts = view.robustness["corruptions"]
        means = [view.robustness["clean"]["point"]["miou_ratio"], *(parts[name]["mean_miou_ratio"] for name in names)]
        offsets = np.arange(len(means)) + (place - (len(shown) - 1) / 2) * width
        heights = [100 * (mean or 0.0) for mean in means]
        axes.bar(offsets, heights, width * 0.92, color=colour, label=view.name, alpha=0.85)
        for severity, mark in (("light", "_"), ("moderate", "."), ("heavy", "x")):
            dots = [100 * (parts[name][severity]["miou_ratio"] or 0.0) for name in names]
            axes.plot(offsets[1:], dots, mark, color=_INK, markersize=5)
    axes.set_xticks(range(len(names) + 1), [name.replace("_", " ") for name in ("clean", *names)], rotation=20)
    finish(axes, "point mIoU under corruption, % (bar: mean; - light, · moderate, x heavy)", "")
    axes.grid(axis="x", visible=False)
    _legend(figure, [view for _, view in shown])
    return figure


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of each value and up to ``window - 1`` before it; NaN values are left out."""
    array = np.asarray(values, float)
    return np.array([np.nanmean(array[max(0, end - window) : end]) for end in range(1, len(array) + 1)])


def _draw_loss(axes: Axes, view: RunView, colour: str) -> None:
    steps, losses = _series(view.lines("train"), "loss_total")
    if not steps:
        return
    axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smoothed(losses, max(1, len(losses) // 15)), color=colour, linewidth=1.6, label=view.name)


def _draw_miou(axes: Axes, view: RunView, colour: str) -> None:
    lines = view.lines("evaluate")
    for model in dict.fromkeys(line["model"] for line in lines):
        steps, ratios = _series([line for line in lines if line["model"] == model], "point_miou_ratio")
        style = "-" if model == view.deployed else "--"
        axes.plot(steps, 100 * np.array(ratios), style, color=colour, linewidth=1.6, marker="o", markersize=3)


def _draw_kept(axes: Axes, view: RunView, colour: str) -> None:
    kept = [(line["step"], 100 * value) for line in view.lines("train") if (value := _kept(line)) is not None]
    if kept:
        steps, values = zip(*kept, strict=True)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(values, max(1, len(values) // 15)), color=colour, linewidth=1.6)
        axes.set_ylim(0, 100)


def _with_pseudo_labels(view: RunView) -> list[dict[str, Any]]:
    return [line for line in view.lines("diagnose") if "recall_ratio" in line]


def _draw_unlabelled_miou(axes: Axes, view: RunView, colour: str) -> None:
    ending = "_unlabelled_miou_ratio"
    lines = view.lines("diagnose")
    names = [key for key in lines[-1] if key.endswith(ending)]
    for name in names:
        steps, ratios = _series(lines, name)
        style, label = ("-", view.name) if name == names[-1] else ("--", None)
        axes.plot(
            steps, 100 * np.array(ratios), style, color=colour, linewidth=1.6, marker="o", markersize=3, label=label
        )


def _draw_pseudo_labels(axes: Axes, view: RunView, colour: str) -> None:
    for key, style in (("precision_total_ratio", "-"), ("kept_total_ratio", ":")):
        steps, ratios = _series(view.lines("diagnose"), key)
        axes.plot(steps, 100 * np.array(ratios), style, color=colour, linewidth=1.6, marker="o", markersize=3)
    axes.set_ylim(0, 100)


def _draw_recall(axes: Axes, labelling: Sequence[tuple[str, RunView, dict[str, Any]]]) -> None:
    names, truth = labelling[0][1].taxonomy.class_names, labelling[0][2]["truth_ratio"]
    width = 0.8 / len(labelling)
    for place, (colour, _, line) in enumerate(labelling):
        heights = [100 * (value or 0.0) for value in line["recall_ratio"]]
        offsets = np.arange(len(heights)) + (place - (len(labelling) - 1) / 2) * width
        axes.bar(offsets, heights, width * 0.92, color=colour)
    ticks = [
        f"{name.replace('_', ' ')}\n{100 * (share or 0.0):.1f} %" for name, share in zip(names, truth, strict=True)
    ]
    axes.set_xticks(range(len(ticks)), ticks, rotation=35, ha="right")
    finish(axes, "points of a class that got the right pseudo-label, % (below: its share of all points)", "")
    axes.grid(axis="x", visible=False)


def _kept(line: dict[str, Any]) -> float | None:
    return next((value for key, value in line.items() if "keep_ratio" in key and value is not None), None)


def _series(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    known = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in known], [value for _, value in known]


def finish(axes: Axes, title: str, x_label: str) -> None:
    """Title, label and the quiet look that all figures have."""
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _legend(figure: Figure, views: Sequence[RunView]) -> None:
    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        shown = [label.replace("$", r"\$") for label in labels]  # matplotlib takes what dollars enclose for a formula
        figure.legend(handles, shown, loc="outside lower center", ncols=min(4, len(views)), fontsize=9, frameon=False)

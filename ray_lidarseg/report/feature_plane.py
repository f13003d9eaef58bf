"""Where a distilled network puts its features, beside its teacher's: the plane of the teacher's two main axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ray_lidarseg.report.run_summary import RunView

_NAMES = {"uniformity": "U", "tolerance": "T", "modality_gap": "G", "structural_gap": "structural gap"}


def feature_planes(views: Sequence[RunView]) -> Figure | None:
    """Features of points (below) and of their images (above) after `evaluate`, in the colours of their classes.

    None where no run was distilled and evaluated. Axes are those of the teacher's PCA, the same for both of a run.
    """
    shown = [view for view in views if view.evaluation.get("plane")]
    if not shown:
        return None
    figure = Figure(figsize=(4.3 * len(shown), 7.6), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, sharex="col", sharey="col")
    for column, view in enumerate(shown):
        plane, found = np.array(view.evaluation["plane"]), view.evaluation["structure"]
        colours = np.array(view.taxonomy.colours)[plane[:, 0].astype(int)] / 255
        said = {"source_uniformity": "U", "source_tolerance": "T"}, _NAMES
        for axes, first, title, names in zip(grid[:, column], (3, 1), ("its images", view.name), said, strict=True):
            axes.scatter(plane[:, first], plane[:, first + 1], s=3, c=colours, linewidths=0)
            numbers = ", ".join(f"{short} {found[name]:.2f}" for name, short in names.items() if name in found)
            axes.set_title(f"{title}: {numbers}", fontsize=8)
            axes.tick_params(labelsize=7)
    return figure

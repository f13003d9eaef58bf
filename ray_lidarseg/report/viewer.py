"""The data of the 3-D viewer: a few thousand points of a scan, small enough to lie inside the page."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.report.pictures import ground_axes
from ray_lidarseg.report.scenes import Scene
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

_MAX_POINTS = 14_000  # what a browser draws at full rate on a plain canvas
_REACH_M = 60.0
_UNIT_M = 0.01  # centimetres: 16 bits hold ±327 m


def cloud(scene: Scene, max_points: int = _MAX_POINTS) -> dict[str, Any]:
    """Points in centimetres (int16, base64) and one layer of class ids (uint8, base64) for the truth and each run."""
    return labelled_cloud(scene.frame, scene.taxonomy, scene.said, max_points)


def labelled_cloud(
    frame: Keyframe, taxonomy: Taxonomy, said: Mapping[str, np.ndarray], max_points: int = _MAX_POINTS
) -> dict[str, Any]:
    """``cloud`` of a frame and class ids [P] by name; IGNORE is drawn faint."""
    points = frame.points
    chosen = _chosen(points, max_points)
    xyz = points[chosen, :3]
    xyz = np.stack([*ground_axes(xyz, frame.dataset), xyz[:, 2]], axis=1)  # the viewer looks along y
    truth = {"truth": frame.labels[chosen]} if len(frame.labels) else {}
    layers = {**truth, **{name: labels[chosen] for name, labels in said.items()}}
    return {
        "frame": frame.frame_id,
        "points": _base64(np.rint(xyz / _UNIT_M).astype("<i2")),
        "layers": {name: _base64(labels.astype(np.uint8)) for name, labels in layers.items()},
        "colours": taxonomy.colours.tolist(),
        "ignore": IGNORE,
    }


def _chosen(points: np.ndarray, max_points: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        inside = np.flatnonzero((np.abs(points[:, :3]) < _REACH_M).all(axis=1))
    if len(inside) <= max_points:
        return inside
    return np.sort(np.random.default_rng(0).choice(inside, max_points, replace=False))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()

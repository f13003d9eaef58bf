"""Where in a scan the sensor stands: not at the origin, where scans come in a world frame.

A LiDAR sees most of what is next to it: whatever the scene, the returns lie densest around the sensor. Source: ours.
Measured on eight scans of nuScenes, SemanticKITTI, KITTI and RELLIS, on two of 2048 points and on the synthetic world:
around the origin there are 0.49 times as many returns or more as around the densest place, also where only 70 degrees
of the turn are kept; moved by 20 m it is 0.14 times or less, moved by 10 m 0.24 to 0.55.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

_RADIUS_M, _RADIUS_RATIO = 10.0, 0.15  # "around": so far, and of a cloud of more than 67 m such a share of its size
_CELLS = 4  # to a radius
_APART = 1.2  # radii between the origin and the densest place: nearer ones are one place
_MANY = 0.2
_SECTORS, _SURROUND = 24, 0.75
_NEAREST_M = 20.0  # of a scan that does not look all around, hardly anything is nearer when its origin is elsewhere


@dataclass(frozen=True)
class Origin:
    """Where a scan's returns lie densest.

    Attributes:
        densest_m: [2] x and y of that place.
        density_ratio: Returns around the origin over those around that place.
        is_elsewhere: Whether the sensor stood there, and not at the origin.
    """

    densest_m: tuple[float, float]
    density_ratio: float
    is_elsewhere: bool


def find_origin(points: Float[np.ndarray, "P D"]) -> Origin:
    """Looks for the sensor in the usable points of a scan, x, y first, metres."""
    xy = points[:, :2].astype(np.float64)
    middle = np.median(xy, axis=0)
    size_m = float(np.percentile(np.linalg.norm(xy - middle, axis=1), 99))
    radius_m = max(_RADIUS_M, _RADIUS_RATIO * size_m)
    densest = middle + _densest(xy - middle, radius_m, size_m)
    around_origin = int((np.linalg.norm(xy, axis=1) < radius_m).sum())
    around_densest = int((np.linalg.norm(xy - densest, axis=1) < radius_m).sum())
    ratio = around_origin / max(around_densest, 1)
    is_apart = float(np.linalg.norm(densest)) > _APART * radius_m
    is_elsewhere = is_apart and ratio < _MANY and (_sees_around(xy) or _is_far(xy))
    return Origin((float(densest[0]), float(densest[1])), ratio, bool(is_elsewhere))


def _densest(xy: np.ndarray, radius_m: float, size_m: float) -> np.ndarray:
    cell_m = radius_m / _CELLS
    inside = xy[np.abs(xy).max(axis=1) <= size_m]
    num_cells = 2 * int(np.ceil(size_m / cell_m)) + 1
    cell = np.floor(inside / cell_m + num_cells / 2).astype(np.int64)
    counts = np.bincount(cell[:, 0] * num_cells + cell[:, 1], minlength=num_cells**2).reshape(num_cells, num_cells)
    best = np.unravel_index(int(gaussian_filter(counts.astype(np.float64), _CELLS / 2).argmax()), counts.shape)
    return (np.array(best) + 0.5 - num_cells / 2) * cell_m


def _sees_around(xy: np.ndarray) -> bool:
    sector = np.floor((np.arctan2(xy[:, 1], xy[:, 0]) + np.pi) / (2 * np.pi) * _SECTORS)
    return len(np.unique(sector % _SECTORS)) >= _SURROUND * _SECTORS


def _is_far(xy: np.ndarray) -> bool:
    """A sensor with a narrow view may face a wall: only a cloud that begins far away is certain."""
    return float(np.percentile(np.linalg.norm(xy, axis=1), 5)) > _NEAREST_M

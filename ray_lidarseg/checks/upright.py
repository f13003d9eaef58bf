"""Which way is up in a scan, and where the ground is: what tells swapped axes and a tilted LiDAR.

A spinning or scanning LiDAR looks all around its vertical axis but only a few tens of degrees above and below the
horizon. So the axis about which the points' elevations span least is the vertical one, and its positive end is the one
under which the lowest returns form a plane. Source: ours. Measured on one nuScenes scan, three scans each of KITTI and
SemanticKITTI, and the synthetic world: the vertical axis spans 26 to 41 degrees, the others 161 to 171; 67 to 92 % of
the lowest returns lie within 0.15 m of the plane, 27 to 66 % when the scan is upside down.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

_AXES = "xyz"
_REACH_M = (2.0, 20.0)  # of the ground fit; farther rings are metres apart
_CELL_M = 2.0
_MIN_RETURNS = 3  # in a cell that takes part
_MIN_CELLS = 12
_SOFT_M = 0.1  # scale of the Cauchy loss
_INLIER_M = 0.15
_GROUND_INLIER_RATIO = 0.4
_GOOD_INLIER_RATIO, _GOOD_HEIGHT_M, _GOOD_SPAN_RATIO = 0.6, (0.5, 5.0), 1.5


@dataclass(frozen=True)
class Upright:
    """The vertical of one scan.

    Attributes:
        up: ``+z``, or the axis and sign that point up instead.
        height_m: Sensor above the ground; NaN where no ground is seen.
        tilt_rad: Angle between ``up`` and the ground's normal; NaN likewise.
        lean: Axis of the scan about which the ground is turned most: what to name when the tilt is large.
        inlier_ratio: Share of the lowest returns that lie on the plane; 0 where there is no plane.
    """

    up: str
    height_m: float
    tilt_rad: float
    lean: str
    inlier_ratio: float

    @property
    def sees_ground(self) -> bool:
        """Whether enough of the lowest returns lie on the plane to call it the ground."""
        return self.inlier_ratio >= _GROUND_INLIER_RATIO


def upright(points: Float[np.ndarray, "P D"]) -> Upright:
    """Finds the vertical of the usable points of a scan, x, y, z first, metres."""
    xyz = points[:, :3].astype(np.float64)
    spans = [_span(xyz, axis) for axis in range(3)]
    straight = _ground(xyz, 2, 1)
    if spans[2] <= _GOOD_SPAN_RATIO * min(spans) and _is_good(straight):
        return straight
    axis = int(np.argmin(spans))
    candidates = [_ground(xyz, axis, sign) for sign in (1, -1)]
    return max(candidates, key=lambda found: found.inlier_ratio if found.height_m > 0 else 0.0)


def _span(xyz: np.ndarray, axis: int) -> float:
    sine = xyz[:, axis] / np.maximum(np.linalg.norm(xyz, axis=1), 1e-9)
    low, high = np.percentile(np.arcsin(np.clip(sine, -1.0, 1.0)), (1, 99))
    return float(high - low)


def _is_good(found: Upright) -> bool:
    low_m, high_m = _GOOD_HEIGHT_M
    return found.inlier_ratio >= _GOOD_INLIER_RATIO and low_m < found.height_m < high_m


def _ground(xyz: np.ndarray, axis: int, sign: int) -> Upright:
    """A plane through the lowest return of each cell, by a least-squares fit that outliers hardly move."""
    name = f"{'+' if sign > 0 else '-'}{_AXES[axis]}"
    across = [other for other in range(3) if other != axis]
    flat, height = _lowest(xyz[:, across], sign * xyz[:, axis])
    if len(flat) < _MIN_CELLS:
        return Upright(name, float("nan"), float("nan"), "", 0.0)
    design = np.column_stack([flat, np.ones(len(flat))])
    start = [0.0, 0.0, float(np.median(height))]
    slope_a, slope_b, level = least_squares(
        lambda plane: design @ plane - height, start, loss="cauchy", f_scale=_SOFT_M
    ).x
    on_plane = np.abs(design @ [slope_a, slope_b, level] - height) < _INLIER_M
    lean = _AXES[across[1] if abs(slope_a) > abs(slope_b) else across[0]]  # a slope along one turns about the other
    tilt = float(np.arctan(np.hypot(slope_a, slope_b)))
    return Upright(name, -float(level), tilt, lean, float(on_plane.mean()))


def _lowest(flat: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = np.hypot(flat[:, 0], flat[:, 1])
    near = (distance > _REACH_M[0]) & (distance < _REACH_M[1])
    flat, height = flat[near], height[near]
    row, column = np.floor((flat + _REACH_M[1]) / _CELL_M).astype(np.int64).T
    cell = row * int(2 * _REACH_M[1] / _CELL_M + 1) + column
    order = np.lexsort((height, cell))
    _, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    chosen = order[first[count >= _MIN_RETURNS]]
    return flat[chosen], height[chosen]

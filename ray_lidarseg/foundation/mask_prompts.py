"""Where segment-anything is asked for masks: a regular grid of points, or the part of it that LiDAR points fall on.

A point is a continuous pixel position (u, v): the centre of the first pixel is (0.5, 0.5). Source of the grid:
segment-anything's automatic mask generator (cell centres); of the LiDAR choice: ours.
"""

import numpy as np
from jaxtyping import Float32


def grid_points(points_per_side: int, height_px: int, width_px: int) -> Float32[np.ndarray, "K 2"]:
    """Centres of the cells of a points_per_side x points_per_side grid over the image, row by row.

    Returns:
        (u, v) in pixels.
    """
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    v, u = np.meshgrid(centres * height_px, centres * width_px, indexing="ij")
    return np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float32)


def lidar_points(
    points_per_side: int, height_px: int, width_px: int, projections: Float32[np.ndarray, "P 2"]
) -> Float32[np.ndarray, "K 2"]:
    """Those grid points into whose cell at least one LiDAR point projects; sky and the far are not asked about.

    Args:
        points_per_side: Grid size.
        height_px: Image height.
        width_px: Image width.
        projections: (u, v) in pixels; those outside the image, and non-finite ones, count for nothing.

    Returns:
        A subset of ``grid_points``, in its order; empty where nothing projects.
    """
    shares = projections.astype(np.float64) / (width_px, height_px)
    inside = np.isfinite(shares).all(axis=1) & (shares >= 0).all(axis=1) & (shares < 1).all(axis=1)
    column, row = (shares[inside] * points_per_side).astype(np.int64).T
    is_asked = np.zeros(points_per_side**2, dtype=bool)
    is_asked[row * points_per_side + column] = True
    return grid_points(points_per_side, height_px, width_px)[is_asked]

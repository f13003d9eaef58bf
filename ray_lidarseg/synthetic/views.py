"""Where rays start and go: a pinhole camera, a spinning LiDAR, and the parallel rays of the sun."""

import numpy as np

from ray_lidarseg.synthetic.raycast import Rectangles
from ray_lidarseg.synthetic.solids import Solids

_EDGES = np.array([(a, b) for a in range(8) for b in range(8) if a < b and bin(a ^ b).count("1") == 1])
_NEAR_PLANE_M = 0.05


class PinholeView:
    """A camera; the ray parameter is the depth along the optical axis.

    Attributes:
        origin: float32 [3] optical centre in the world.
        direction: float32 [H W, 3], not normalised: one metre of depth each.
        shape: (H, W).
    """

    def __init__(self, world_SE3_cam: np.ndarray, intrinsics: np.ndarray, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.intrinsics = intrinsics
        self.rotation = world_SE3_cam[:3, :3]
        self.origin = world_SE3_cam[:3, 3].astype(np.float32)
        row, column = np.indices(shape, dtype=np.float64) + 0.5
        x = (column - intrinsics[0, 2]) / intrinsics[0, 0]
        y = (row - intrinsics[1, 2]) / intrinsics[1, 1]
        in_camera = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        self.direction = (in_camera @ self.rotation.T).astype(np.float32)

    def rectangles(self, solids: Solids) -> Rectangles:
        """Projected bounding boxes, cut at the near plane."""
        corners = (solids.corners() - self.origin) @ self.rotation.astype(np.float32)
        depth = corners[:, :, 2]
        points = np.where((depth > _NEAR_PLANE_M)[..., None], corners, np.nan)
        crossing = (depth > _NEAR_PLANE_M).any(axis=1) & (depth <= _NEAR_PLANE_M).any(axis=1)
        first, last = corners[crossing][:, _EDGES[:, 0]], corners[crossing][:, _EDGES[:, 1]]
        cut = np.full((len(solids), len(_EDGES), 3), np.nan, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):  # edges along the plane
            share = (_NEAR_PLANE_M - first[..., 2]) / (last[..., 2] - first[..., 2])
            on_edge = first + share[..., None] * (last - first)
        cut[crossing] = np.where(((share > 0) & (share < 1))[..., None], on_edge, np.nan)
        points = np.concatenate([points, cut], axis=1)
        column = self._range(points[..., 0] / points[..., 2] * self.intrinsics[0, 0] + self.intrinsics[0, 2], 1)
        row = self._range(points[..., 1] / points[..., 2] * self.intrinsics[1, 1] + self.intrinsics[1, 2], 0)
        return Rectangles(row, column, np.maximum(depth.min(axis=1), 0))

    def _range(self, pixels: np.ndarray, axis: int) -> np.ndarray:
        """int64 [N, 2] pixels whose centres lie between the smallest and largest value; empty where all are nan."""
        low = np.where(np.isnan(pixels), np.inf, pixels).min(axis=1)
        high = np.where(np.isnan(pixels), -np.inf, pixels).max(axis=1)
        size = self.shape[axis]
        first = np.ceil(np.clip(low - 0.5, 0, size))
        return np.stack([first, np.maximum(np.floor(np.clip(high - 0.5, -1, size - 1)) + 1, first)], axis=1).astype(
            np.int64
        )


class SpinningView:
    """A LiDAR: rows are rings from the lowest, columns go clockwise; the ray parameter is the range.

    Args:
        world_SE3_lidar: float64 [4, 4] pose.
        elevation_rad: float64 [rings] ascending.
        num_firings: Firings.
        first_azimuth_rad: Of the first firing.
        columns_per_turn: Firings of a whole turn where this is a sector of it; 0: this is the whole turn.

    Attributes:
        origin: float32 [3] in the world.
        direction: float32 [rings columns, 3], unit length, in the world.
        in_sensor: float32 [rings columns, 3], the same directions in the sensor frame (x right, y forward, z up).
        shape: (rings, columns).
    """

    def __init__(
        self,
        world_SE3_lidar: np.ndarray,
        elevation_rad: np.ndarray,
        num_firings: int,
        first_azimuth_rad: float,
        columns_per_turn: int = 0,
    ) -> None:
        self.shape = (len(elevation_rad), num_firings)
        self.elevation = elevation_rad
        self.first_azimuth = first_azimuth_rad
        self.columns_per_turn = columns_per_turn or num_firings
        self.step = 2 * np.pi / self.columns_per_turn
        self.rotation = world_SE3_lidar[:3, :3]
        self.origin = world_SE3_lidar[:3, 3].astype(np.float32)
        azimuth = first_azimuth_rad - self.step * np.arange(num_firings)
        flat = np.cos(elevation_rad)[:, None]
        rays = (flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation_rad)[:, None] + 0 * azimuth)
        self.in_sensor = np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)
        self.direction = (self.in_sensor @ self.rotation.T.astype(np.float32)).astype(np.float32)

    def rectangles(self, solids: Solids) -> Rectangles:
        """Azimuth and elevation bounds of the bounding boxes."""
        corners = (solids.corners() - self.origin) @ self.rotation.astype(np.float32)
        flat, height = corners[..., :2], corners[..., 2]
        nearest = _flat_distance(flat)
        farthest = np.linalg.norm(flat, axis=2).max(axis=1)
        top, bottom = height.max(axis=1), height.min(axis=1)
        highest = np.arctan2(top, np.where(top > 0, np.maximum(nearest, 1e-3), farthest))
        lowest = np.arctan2(bottom, np.where(bottom < 0, np.maximum(nearest, 1e-3), farthest))
        row = np.stack(
            [np.searchsorted(self.elevation, lowest), np.searchsorted(self.elevation, highest, "right")], axis=1
        )
        near = np.hypot(nearest, np.maximum(0, np.maximum(bottom, -top)))
        return Rectangles(row, self._columns(flat, nearest <= 0), near.astype(np.float32))

    def _columns(self, flat: np.ndarray, is_around: np.ndarray) -> np.ndarray:
        """int64 [N, 2] columns between the leftmost and rightmost corner, all where the box is around the sensor."""
        middle = flat.mean(axis=1)
        centre = np.arctan2(middle[:, 1], middle[:, 0])
        azimuth = np.arctan2(flat[..., 1], flat[..., 0])
        offset = (azimuth - centre[:, None] + np.pi) % (2 * np.pi) - np.pi
        behind = ((self.first_azimuth - centre) / self.step)[:, None] - offset / self.step
        first, last = np.ceil(behind.min(axis=1)), np.floor(behind.max(axis=1)) + 1
        turns = np.floor(first / self.columns_per_turn) * self.columns_per_turn
        columns = np.stack([first - turns, last - turns], axis=1).astype(np.int64)
        columns[is_around] = (0, self.columns_per_turn)
        return columns if self.shape[1] == self.columns_per_turn else self._in_sector(columns)

    def _in_sector(self, columns: np.ndarray) -> np.ndarray:
        """The part of each range inside the sector; a range that enters it from both ends takes all of it."""
        width = self.shape[1]
        first, last = columns.T
        ahead, behind = first < width, last > self.columns_per_turn
        start = np.where(ahead & ~behind, first, 0)
        stop = np.where(ahead, np.where(behind, width, last), np.where(behind, last - self.columns_per_turn, 0))
        return np.stack([start, np.minimum(stop, width)], axis=1)


def _flat_distance(flat: np.ndarray) -> np.ndarray:
    """float32 [N] lower bound of the horizontal distance of the origin from each hull; <= 0 where it may be inside.

    For every unit vector u, the least corner . u bounds it; the box sides and the centre direction are good choices.
    """
    sides = np.stack([flat[:, 4] - flat[:, 0], flat[:, 2] - flat[:, 0], flat[:, 1] - flat[:, 0]], axis=1)
    normals = np.concatenate([sides, -sides, flat.mean(axis=1)[:, None]], axis=1)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-6)
    return np.einsum("nki,nci->nkc", normals, flat).min(axis=2).max(axis=1)


class ParallelView:
    """The sun looking at the ground: one parallel ray for every cell of a raster on the plane z = 0.

    Attributes:
        origin: float32 [rows columns, 3], high above each cell against the ray.
        direction: float32 [1, 3], unit length, downwards.
        shape: (rows, columns).
    """

    def __init__(
        self, direction: np.ndarray, low_m: np.ndarray, cell_m: float, shape: tuple[int, int], top_m: float
    ) -> None:
        self.shape = shape
        self.direction = np.asarray(direction, np.float32)[None]
        self.low_m, self.cell_m = np.asarray(low_m, np.float32), cell_m
        self.start = top_m / -float(direction[2])
        row, column = np.indices(shape, dtype=np.float32) + np.float32(0.5)
        cells = np.stack([column * cell_m + low_m[0], row * cell_m + low_m[1], np.zeros_like(row)], axis=-1)
        self.origin = (cells.reshape(-1, 3) - self.start * self.direction).astype(np.float32)

    def to_raster(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] (column, row) in cells where the ray through each point meets the plane z = 0."""
        flat = points[..., :2] - points[..., 2:] / self.direction[0, 2] * self.direction[0, :2]
        return (flat - self.low_m) / self.cell_m

    def rectangles(self, solids: Solids) -> Rectangles:
        """Shadows of the bounding boxes on the plane."""
        corners = solids.corners()
        cells = self.to_raster(corners)
        limit = np.array(self.shape[::-1])
        first = np.clip(np.ceil(cells.min(axis=1) - 0.5), 0, limit)
        last = np.clip(np.floor(cells.max(axis=1) - 0.5) + 1, first, limit)
        along = (self.start + corners[..., 2] / self.direction[0, 2]).min(axis=1)
        bounds = np.stack([first, last], axis=2).astype(np.int64)
        return Rectangles(bounds[:, 1], bounds[:, 0], np.maximum(along, 0).astype(np.float32))

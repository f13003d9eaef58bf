"""Ray casting with screen-space culling: NumPy, one pass over (primitive, ray) pairs whose rectangles overlap.

Every view knows the rectangle of rays that can meet a box. Primitives with large rectangles are tested one by one,
front to back; all small ones together as flat pairs, so that a thousand of them cost no thousand calls.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ray_lidarseg.synthetic.noise import hash01
from ray_lidarseg.synthetic.solids import Kind, Solids

NOTHING, GROUND = -2, -1
"""Values of ``Hits.solid`` where a ray meets no primitive."""

_PAIRS_PER_CHUNK = 1 << 17
_LARGE_RAYS = 3000
_LEAF_M = 0.14


@dataclass(frozen=True)
class Rectangles:
    """Which rays may meet each primitive; empty where none.

    Attributes:
        row: int64 [N, 2], first and past-the-last row.
        column: int64 [N, 2], first and past-the-last column; may reach beyond the last column where views wrap.
        near: float32 [N], lower bound of the ray parameter of a hit.
    """

    row: np.ndarray
    column: np.ndarray
    near: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """int64 [N] rays of each rectangle."""
        rows = np.maximum(self.row[:, 1] - self.row[:, 0], 0)
        return rows * np.maximum(self.column[:, 1] - self.column[:, 0], 0)


class View(Protocol):
    """Rays on a raster of rows and columns; hit point = origin + parameter * direction."""

    shape: tuple[int, int]
    direction: np.ndarray  # float32 [rows * columns, 3], or [1, 3] where all rays are parallel
    origin: np.ndarray  # float32 [3], or [rows * columns, 3] where rays are parallel

    def rectangles(self, solids: Solids) -> Rectangles:
        """The rays that can meet each primitive."""
        ...


@dataclass(frozen=True)
class Hits:
    """Nearest hit of each ray.

    Attributes:
        distance: float32 [R] ray parameter, inf where nothing is met.
        solid: int32 [R] index of the primitive, or GROUND or NOTHING.
    """

    distance: np.ndarray
    solid: np.ndarray


def cast(view: View, solids: Solids, ground: np.ndarray | None = None) -> Hits:
    """The nearest of ground and primitives for every ray of a view.

    Args:
        view: The rays.
        solids: The primitives.
        ground: float32 [R] ray parameter of the ground, inf where it is not met; None: no ground.
    """
    num_rays = view.shape[0] * view.shape[1]
    distance = np.full(num_rays, np.inf, np.float32) if ground is None else ground.copy()
    solid = np.where(np.isfinite(distance), GROUND, NOTHING).astype(np.int32)
    rectangles = view.rectangles(solids)
    pairs = _Pairs(view, solids)
    count = rectangles.count
    order = np.argsort(rectangles.near, kind="stable")
    for index in order[count[order] > _LARGE_RAYS]:
        _cast_large(pairs, rectangles, int(index), distance, solid)
    small = order[(count[order] > 0) & (count[order] <= _LARGE_RAYS)]
    cuts = np.searchsorted(np.cumsum(count[small]), np.arange(0, count[small].sum() + 1, _PAIRS_PER_CHUNK))
    for chunk in np.split(small, np.unique(cuts[1:])):
        _cast_small(pairs, rectangles, chunk, distance, solid)
    return Hits(distance, solid)


def _cast_large(pairs: "_Pairs", rectangles: Rectangles, index: int, distance: np.ndarray, solid: np.ndarray) -> None:
    rays = _rays_of(pairs.view.shape, rectangles.row[index], rectangles.column[index])
    rays = rays[distance[rays] > rectangles.near[index]]
    if not len(rays):
        return
    parameter = pairs.parameter(int(pairs.solids.kind[index]), np.full(1, index), rays)
    nearer = parameter < distance[rays]
    distance[rays[nearer]] = parameter[nearer]
    solid[rays[nearer]] = index


def _cast_small(
    pairs: "_Pairs", rectangles: Rectangles, chunk: np.ndarray, distance: np.ndarray, solid: np.ndarray
) -> None:
    which, rays = _expand(pairs.view.shape, rectangles, chunk)
    open_ray = distance[rays] > rectangles.near[which]
    which, rays = which[open_ray], rays[open_ray]
    parameter = np.full(len(rays), np.inf, np.float32)
    kinds = pairs.solids.kind[which]
    for kind in np.unique(kinds):
        chosen = np.flatnonzero(kinds == kind)
        parameter[chosen] = pairs.parameter(int(kind), which[chosen], rays[chosen])
    hit = np.flatnonzero(parameter < distance[rays])
    hit = hit[np.argsort(-parameter[hit], kind="stable")]  # written far to near: the nearest stays
    distance[rays[hit]] = parameter[hit]
    solid[rays[hit]] = which[hit]


def _rays_of(shape: tuple[int, int], row: np.ndarray, column: np.ndarray) -> np.ndarray:
    columns = np.arange(column[0], column[1]) % shape[1]
    return (np.arange(row[0], row[1])[:, None] * shape[1] + columns).ravel()


def _expand(shape: tuple[int, int], rectangles: Rectangles, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every (primitive, ray) pair of the chunk's rectangles."""
    count = rectangles.count[chunk]
    which = np.repeat(chunk, count)
    starts = np.repeat(np.cumsum(count) - count, count)
    within = np.arange(len(which)) - starts
    width = (rectangles.column[:, 1] - rectangles.column[:, 0])[which]
    row = rectangles.row[which, 0] + within // width
    column = (rectangles.column[which, 0] + within % width) % shape[1]
    return which, row * shape[1] + column


class _Pairs:
    """Brings rays into the unit frame of primitives and intersects them there."""

    def __init__(self, view: View, solids: Solids) -> None:
        self.view = view
        self.solids = solids
        self.unit = solids.axes.transpose(0, 2, 1) / solids.half[:, :, None]
        if view.origin.ndim == 1:
            self.fixed = np.einsum("nij,nj->in", self.unit, view.origin - solids.centre)
        else:
            self.fixed = np.einsum("nij,j->in", self.unit, view.direction[0])

    def parameter(self, kind: int, which: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Ray parameter of the hit, inf where missed; ``which`` has one index a ray, or one for all."""
        if self.view.origin.ndim == 1:
            origin, direction = self._gather(self.fixed, which), self._turned(which, self.view.direction[rays])
        else:
            offset = self.view.origin[rays] - self.solids.centre[which]
            origin, direction = self._turned(which, offset), self._gather(self.fixed, which)
        return INTERSECT[Kind(kind)](origin, direction, self.solids, which)

    def _gather(self, table: np.ndarray, which: np.ndarray) -> np.ndarray:
        return table[:, which]

    def _turned(self, which: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        if len(which) == 1:
            return self.unit[which[0]] @ vectors.T
        x, y, z = vectors.T
        unit = self.unit.reshape(-1, 9)[which].T
        return np.stack([unit[3 * i] * x + unit[3 * i + 1] * y + unit[3 * i + 2] * z for i in range(3)])


_Arguments = tuple[np.ndarray, np.ndarray, Solids, np.ndarray]


def _finished(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Entry where the ray enters ahead of its start; a ray that starts inside sees nothing of the solid."""
    return np.where((near <= far) & (near > 0), near, np.float32(np.inf)).astype(np.float32, copy=False)


def _nonzero(value: np.ndarray) -> np.ndarray:
    return np.where(np.abs(value) < 1e-9, np.float32(1e-9), value)


def intersect_box(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Slab test against [-1, 1]^3."""
    inverse = 1 / _nonzero(direction)
    middle, reach = -origin * inverse, np.abs(inverse)
    return _finished((middle - reach).max(axis=0), (middle + reach).min(axis=0))


def intersect_wedge(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Six half spaces n p <= 1; front, rear and both sides lean with height q = (z + 1) / 2."""
    front, rear, side = solids.taper[which].T
    near: np.ndarray = np.asarray(-np.inf, np.float32)
    far: np.ndarray = np.asarray(np.inf, np.float32)
    height, rise = (origin[2] + 1) / 2, direction[2] / 2
    for axis, sign, lean in ((0, 1, front), (0, -1, rear), (1, 1, side), (1, -1, side), (2, 1, 0.0), (2, -1, 0.0)):
        slope = _nonzero(sign * direction[axis] + lean * rise)
        parameter = (1 - sign * origin[axis] - lean * height) / slope
        near = np.where(slope < 0, np.maximum(near, parameter), near)
        far = np.where(slope > 0, np.minimum(far, parameter), far)
    return _finished(near, far)


def intersect_cylinder(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Mantle of radius 1 - taper (z + 1) / 2 and both ends: the nearest valid of four candidates."""
    slope = solids.taper[which, 0] / 2
    radius = 1 - slope - slope * origin[2]
    a = _nonzero(direction[0] ** 2 + direction[1] ** 2 - (slope * direction[2]) ** 2)
    b = origin[0] * direction[0] + origin[1] * direction[1] + slope * direction[2] * radius
    c = origin[0] ** 2 + origin[1] ** 2 - radius**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    is_real = b * b >= a * c
    best = np.full(np.broadcast(a, c).shape, np.inf, np.float32)
    for parameter in ((-b - root) / a, (-b + root) / a):
        height = origin[2] + parameter * direction[2]
        is_valid = is_real & (parameter > 0) & (np.abs(height) <= 1) & (slope * (height + 1) <= 1)
        best = np.where(is_valid & (parameter < best), parameter, best)
    for end in (-1, 1):
        parameter = (end - origin[2]) / _nonzero(direction[2])
        x, y = origin[0] + parameter * direction[0], origin[1] + parameter * direction[1]
        is_valid = (parameter > 0) & (x * x + y * y <= (1 - slope * (end + 1)) ** 2)
        best = np.where(is_valid & (parameter < best), parameter, best)
    is_inside = (c < 0) & (np.abs(origin[2]) < 1)
    return np.where(is_inside, np.float32(np.inf), best).astype(np.float32, copy=False)


def intersect_ellipsoid(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Unit sphere."""
    near, far, _ = _sphere(origin, direction)
    return _finished(near, far)


def _sphere(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entry, exit (entry > exit where missed) and the squared distance of the ray from the centre."""
    a, b = (direction**2).sum(axis=0), (origin * direction).sum(axis=0)
    closest = (origin**2).sum(axis=0) - b * b / a
    root = np.sqrt(np.maximum(1 - closest, 0) / a)
    middle = -b / a
    return np.where(closest < 1, middle - root, np.inf), middle + root, closest


def intersect_leaves(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Sphere with holes: where the front has one the ray goes on to the back, which has holes, too."""
    near, far, closest = _sphere(origin, direction)
    rim = np.clip(closest, 0, 1)
    hole_ratio = 0.22 + 0.7 * rim**4
    front, back = (
        _leaf_noise(origin, direction, near, solids, which),
        _leaf_noise(origin, direction, far, solids, which),
    )
    near = np.where(np.isfinite(near), near, 0)
    deep = near + (far - near) * (0.35 * front * front).astype(np.float32)
    parameter = np.where(front > hole_ratio, deep, np.where(back > hole_ratio + 0.25, far, np.inf))
    is_hit = (closest < 1) & (near > 0)
    return np.where(is_hit, parameter, np.inf).astype(np.float32, copy=False)


def _leaf_noise(
    origin: np.ndarray, direction: np.ndarray, parameter: np.ndarray, solids: Solids, which: np.ndarray
) -> np.ndarray:
    at = np.where(np.isfinite(parameter), parameter, 0)
    x, y, z = ((origin[i] + at * direction[i]) * solids.half[which, i] for i in range(3))
    fine = hash01(x / _LEAF_M, y / _LEAF_M, z / _LEAF_M, solids.salt[which])
    coarse = hash01(x / (4 * _LEAF_M), y / (4 * _LEAF_M), z / (3 * _LEAF_M), solids.salt[which])
    return 0.6 * fine + 0.4 * coarse


def intersect_ring(origin: np.ndarray, direction: np.ndarray, solids: Solids, which: np.ndarray) -> np.ndarray:
    """Cylinder without the inner part of its ends."""
    parameter = intersect_cylinder(origin, direction, solids, which)
    at = np.where(np.isfinite(parameter), parameter, 0)
    x, y = origin[0] + at * direction[0], origin[1] + at * direction[1]
    return np.where(x * x + y * y < 0.8**2, np.float32(np.inf), parameter)


INTERSECT = {
    Kind.BOX: intersect_box,
    Kind.WEDGE: intersect_wedge,
    Kind.CYLINDER: intersect_cylinder,
    Kind.ELLIPSOID: intersect_ellipsoid,
    Kind.LEAVES: intersect_leaves,
    Kind.RING: intersect_ring,
}
"""Ray parameter of the hit in a primitive's unit frame: (origin [3, n], direction [3, n], solids, which) -> [n]."""

"""Against a slow plain twin: march along every ray through every primitive until a point is inside."""

import numpy as np
import pytest

from ray_lidarseg.synthetic.raycast import GROUND, NOTHING, cast
from ray_lidarseg.synthetic.solids import AXLE, Kind, Shape, Solids, tilt_matrix
from ray_lidarseg.synthetic.views import ParallelView, PinholeView, SpinningView


def _is_inside(kind: int, point: np.ndarray, taper: np.ndarray) -> np.ndarray:
    x, y, z = point.T
    q = (z + 1) / 2
    if kind == Kind.ELLIPSOID:
        return x * x + y * y + z * z <= 1
    if kind == Kind.CYLINDER:
        return (np.abs(z) <= 1) & (np.hypot(x, y) <= 1 - taper[0] * q)
    front, rear, side = taper
    return (np.abs(z) <= 1) & (x <= 1 - front * q) & (-x <= 1 - rear * q) & (np.abs(y) <= 1 - side * q)


def _march(
    view, solids: Solids, ground: np.ndarray, reach: float, step: float = 0.008
) -> tuple[np.ndarray, np.ndarray]:
    along = np.arange(step, reach, step)
    best, which = ground.astype(np.float64).copy(), np.where(np.isfinite(ground), GROUND, NOTHING)
    for ray in range(len(best)):
        origin = view.origin if view.origin.ndim == 1 else view.origin[ray]
        direction = view.direction[ray] if len(view.direction) > 1 else view.direction[0]
        points = origin + along[:, None] * direction
        for index in range(len(solids)):
            local = (points - solids.centre[index]) @ solids.axes[index] / solids.half[index]
            inside = _is_inside(solids.kind[index], local, solids.taper[index])
            first = along[inside.argmax()] if inside.any() and not inside[0] else np.inf
            if first < best[ray]:
                best[ray], which[ray] = first, index
    return best, which


def _some_solids(seed: int, count: int = 9, spread: float = 3.0) -> Solids:
    rng = np.random.default_rng(seed)
    shape = Shape()
    for index in range(count):
        kind = (Kind.BOX, Kind.WEDGE, Kind.CYLINDER, Kind.ELLIPSOID)[index % 4]
        centre = tuple(rng.uniform(-spread, spread, 3) + np.array([6.0, 0, 0]))
        taper = tuple(rng.uniform(0, 0.9, 3)) if kind in (Kind.WEDGE, Kind.CYLINDER) else (0.0, 0.0, 0.0)
        axes = tilt_matrix(*rng.uniform(-3, 3, 3))
        shape.add(kind, centre, tuple(rng.uniform(0.5, 2.5, 3)), (1, 1, 1), 0.5, taper=taper, axes=axes)
    return shape.solids()


def _camera(rows: int = 14, columns: int = 18) -> PinholeView:
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    return PinholeView(pose, np.array([[12.0, 0, columns / 2], [0, 12.0, rows / 2], [0, 0, 1]]), (rows, columns))


def _lidar(rings: int = 12, columns: int = 30) -> SpinningView:
    pose = np.eye(4)
    pose[:3, :3] = tilt_matrix(-np.pi / 2, 0.03, 0.02)
    return SpinningView(pose, np.radians(np.linspace(-35, 30, rings)), columns, 3.5)


def _sun(rows: int = 14, columns: int = 16) -> ParallelView:
    direction = np.array([0.4, -0.2, -0.9]) / np.linalg.norm([0.4, -0.2, -0.9])
    return ParallelView(direction, np.array([0.0, -5.0]), 0.7, (rows, columns), 8.0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("make_view", [_camera, _lidar, _sun])
@pytest.mark.parametrize("threshold", [0, 10**6], ids=["one by one", "as pairs"])
def test_same_hits_as_marching(seed, make_view, threshold, monkeypatch):
    monkeypatch.setattr("ray_lidarseg.synthetic.raycast._LARGE_RAYS", threshold)
    view, solids = make_view(), _some_solids(seed)
    rays = view.shape[0] * view.shape[1]
    ground = np.where(np.arange(rays) % 3 == 0, 7.0, np.inf).astype(np.float32)
    hits = cast(view, solids, ground)
    distance, which = _march(view, solids, ground, reach=15.0)
    same = (hits.solid == which) & np.isclose(hits.distance, distance, rtol=0, atol=0.02)
    assert same.mean() > 0.985  # marching may step over an edge that a ray only grazes
    assert (hits.solid >= 0).mean() > 0.05


def test_a_box_around_the_lidar_wraps_and_a_ray_that_starts_inside_sees_nothing():
    shape = Shape()
    for y in (-4.0, 4.0):
        shape.add(Kind.BOX, (0, y, 0), (40, 0.5, 40), (1, 1, 1), 0.5)
    view = _lidar(columns=90)
    hits = cast(view, shape.solids())
    sideways = np.abs(view.direction[:, 1]) > 0.3
    assert (hits.solid[sideways] >= 0).all()
    around = Shape()
    around.add(Kind.BOX, (0, 0, 0), (2, 2, 2), (1, 1, 1), 0.5)
    assert (cast(view, around.solids()).solid == NOTHING).all()


def test_solids_behind_the_camera_are_not_seen_and_none_is_fine():
    shape = Shape()
    shape.add(Kind.ELLIPSOID, (-5, 0, 0), (2, 2, 2), (1, 1, 1), 0.5)
    assert (cast(_camera(), shape.solids()).solid == NOTHING).all()
    assert (cast(_camera(), Solids.concatenate([])).solid == NOTHING).all()


def test_leaves_let_some_rays_through_and_rings_are_open():
    shape = Shape()
    shape.add(Kind.LEAVES, (6, 0, 0), (3, 3, 3), (0, 1, 0), 0.3)
    hits = cast(_camera(90, 90), shape.solids())
    solid = Shape()
    solid.add(Kind.ELLIPSOID, (6, 0, 0), (3, 3, 3), (0, 1, 0), 0.3)
    whole = cast(_camera(90, 90), solid.solids())
    assert 0.4 < (hits.solid == 0).sum() / (whole.solid == 0).sum() < 0.98
    assert (hits.distance[hits.solid == 0] >= whole.distance[hits.solid == 0] - 1e-3).all()
    ring = Shape()
    ring.add(Kind.RING, (3, 0, 0), (2, 2, 0.1), (0, 0, 0), 0.1, axes=AXLE)
    facing = PinholeView(
        np.array([[1.0, 0, 0, 3], [0, 0, 1, -3], [0, -1, 0, 0], [0, 0, 0, 1]]),
        np.array([[12.0, 0, 9], [0, 12.0, 9], [0, 0, 1]]),
        (18, 18),
    )
    seen = cast(facing, ring.solids()).solid.reshape(18, 18)
    assert seen[9, 9] == NOTHING
    assert (seen == 0).any()

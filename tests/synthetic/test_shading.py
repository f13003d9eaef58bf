import numpy as np
import pytest

from ray_lidarseg.synthetic.raycast import Hits
from ray_lidarseg.synthetic.shading import Light, Shadows, surfels
from ray_lidarseg.synthetic.solids import Kind, Shape, Solids, tilt_matrix


class _Place:
    """A scene with a single slab 2 m above the ground."""

    speed, duration = 1.0, 0.0

    def __init__(self) -> None:
        shape = Shape()
        shape.add(Kind.BOX, (5, 0, 2.1), (4, 4, 0.2), (1, 1, 1), 0.5)
        self.fixed = shape.solids()


def test_shadows_by_hand():
    sun = np.array([1.0, 0.0, -1.0]) / np.sqrt(2)
    shadows = Shadows(_Place(), sun)
    depth = shadows.depth(Solids.concatenate([]))
    # light comes from behind at 45 degrees: the slab at x 3 … 7 and height 2 shades the ground at x 5 … 9
    points = np.array([[7, 0, 0], [4, 0, 0], [10, 0, 0], [5, 0, 2.21], [5, 3, 0]], np.float32)
    np.testing.assert_allclose(shadows.lit_ratio(points, depth), [0, 1, 1, 1, 1], atol=1e-3)


def test_moving_things_cast_shadows_too():
    shadows = Shadows(_Place(), np.array([0.0, 0.0, -1.0]))
    shape = Shape()
    shape.add(Kind.BOX, (20, 0, 1), (3, 3, 1), (1, 1, 1), 0.5)
    point = np.array([[20, 0, 0]], np.float32)
    assert shadows.lit_ratio(point, shadows.depth(Solids.concatenate([])))[0] == pytest.approx(1)
    assert shadows.lit_ratio(point, shadows.depth(shape.solids()))[0] == pytest.approx(0)
    assert shadows.open_ratio(point, shadows.depth(shape.solids()))[0] < 0.2


@pytest.mark.parametrize("kind", [Kind.BOX, Kind.WEDGE, Kind.CYLINDER, Kind.ELLIPSOID])
def test_normals_point_out_of_the_surface(tiny_scene, kind):
    """Against finite differences: a small step along the normal leaves the solid, one against it enters."""
    from ray_lidarseg.synthetic.raycast import cast
    from ray_lidarseg.synthetic.views import SpinningView

    shape = Shape()
    taper = (0.5, 0.2, 0.3) if kind in (Kind.WEDGE, Kind.CYLINDER) else (0.0, 0.0, 0.0)
    axes = tilt_matrix(0.4, 0.2, 0.1)
    shape.add(kind, (8, 1, 0), (5, 3, 4), (0.5, 0.5, 0.5), 0.5, taper=taper, axes=axes)
    solids = shape.solids()
    view = SpinningView(np.eye(4), np.radians(np.linspace(-25, 25, 30)), 300, np.pi)
    hits = cast(view, solids)
    seen = surfels(tiny_scene.road, solids, view.origin, view.direction, hits, 1e-3)
    assert len(seen.ray) > 100
    np.testing.assert_allclose(np.linalg.norm(seen.normal, axis=1), 1, atol=1e-4)
    assert ((seen.normal * view.direction[seen.ray]).sum(axis=1) < 1e-3).mean() > 0.98  # towards the ray's start
    unit = lambda points: (points - solids.centre[0]) @ solids.axes[0] / solids.half[0]  # noqa: E731
    x, y, z = unit(seen.position - 0.01 * seen.normal).T
    q = (z + 1) / 2
    if kind == Kind.ELLIPSOID:
        inside = x * x + y * y + z * z < 1
    elif kind == Kind.CYLINDER:
        inside = (np.hypot(x, y) < 1 - taper[0] * q) & (np.abs(z) < 1)
    else:
        inside = (x < 1 - taper[0] * q) & (-x < 1 - taper[1] * q) & (np.abs(y) < 1 - taper[2] * q) & (np.abs(z) < 1)
    assert inside.mean() > 0.98


def test_rays_without_a_hit_are_left_out(tiny_scene):
    nothing = Hits(np.full(3, np.inf, np.float32), np.full(3, -2, np.int32))
    seen = surfels(
        tiny_scene.road, tiny_scene.fixed, np.zeros(3, np.float32), np.eye(3, dtype=np.float32), nothing, 1e-3
    )
    assert len(seen.ray) == 0


def test_the_sky_is_brighter_at_the_horizon_and_never_burns_out_below_zero(tiny_scene):
    light = Light(tiny_scene)
    colour = light.sky(np.array([[1, 0, 0.01], [0.1, 0, 1.0]], np.float32))
    assert (colour > 0).all()
    assert colour[0, 0] > colour[1, 0]

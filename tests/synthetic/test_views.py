import numpy as np
import pytest

from ray_lidarseg.synthetic.raycast import cast
from ray_lidarseg.synthetic.solids import Kind, Shape
from ray_lidarseg.synthetic.views import ParallelView, PinholeView, SpinningView

K = np.array([[10.0, 0, 8], [0, 10.0, 5], [0, 0, 1]])


def test_pinhole_rays_go_through_pixel_centres():
    view = PinholeView(np.eye(4), K, (10, 16))
    direction = view.direction.reshape(10, 16, 3)[2, 3]
    np.testing.assert_allclose(direction, [(3.5 - 8) / 10, (2.5 - 5) / 10, 1], atol=1e-6)


def test_pinhole_rectangle_of_a_box_in_front():
    shape = Shape()
    shape.add(Kind.BOX, (0, 0, 10), (4, 2, 0.002), (1, 1, 1), 0.5)
    bounds = PinholeView(np.eye(4), K, (10, 16)).rectangles(shape.solids())
    assert bounds.column.tolist() == [[6, 10]]  # x in [-2, 2] at depth 10: pixels 6 … 10, centres 6.5 … 9.5
    assert bounds.row.tolist() == [[4, 6]]


def test_spinning_view_is_clockwise_from_its_first_azimuth():
    view = SpinningView(np.eye(4), np.radians([-10.0, 0.0]), 4, np.pi / 2)
    level = view.in_sensor.reshape(2, 4, 3)[1]
    np.testing.assert_allclose(level, [[0, 1, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0]], atol=1e-6)
    assert view.in_sensor.reshape(2, 4, 3)[0, 0, 2] == pytest.approx(np.sin(np.radians(-10)))


def test_spinning_rectangles_contain_every_ray_that_can_hit():
    rng = np.random.default_rng(0)
    shape = Shape()
    for _ in range(200):
        shape.add(Kind.BOX, tuple(rng.uniform(-12, 12, 3)), tuple(rng.uniform(0.2, 9, 3)), (1, 1, 1), 0.5)
    solids = shape.solids()
    view = SpinningView(np.eye(4), np.radians(np.linspace(-40, 40, 33)), 120, 0.7)
    bounds = view.rectangles(solids)
    inverse = 1 / np.where(np.abs(view.direction) < 1e-9, 1e-9, view.direction)
    for index in range(len(solids)):
        low, high = (solids.centre[index] - solids.half[index]), (solids.centre[index] + solids.half[index])
        near = np.minimum(low * inverse, high * inverse).max(axis=1)
        far = np.maximum(low * inverse, high * inverse).min(axis=1)
        for ray in np.flatnonzero((near < far) & (near > 0)):
            row, column = divmod(int(ray), 120)
            first, last = bounds.column[index]
            assert bounds.row[index, 0] <= row < bounds.row[index, 1]
            assert first <= column < last or first <= column + 120 < last
            assert bounds.near[index] <= near[ray] + 1e-3


def test_sun_rays_meet_the_plane_in_their_own_cell():
    view = ParallelView(np.array([0.6, 0.0, -0.8]), np.array([-5.0, -5.0]), 0.5, (20, 20), 10.0)
    on_plane = view.origin + view.start * view.direction
    np.testing.assert_allclose(on_plane[:, 2], 0, atol=1e-4)
    cells = view.to_raster(on_plane)
    np.testing.assert_allclose(cells[:3], [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]], atol=1e-3)
    np.testing.assert_allclose(view.to_raster(view.origin + 3 * view.direction), cells, atol=1e-3)


def test_a_sector_looks_along_a_part_of_the_turn_and_finds_the_same_things():
    """Boxes all around, one of them on the seam: the sector's ranges hold exactly the rays that hit."""
    shape = Shape()
    for turn in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        shape.add(Kind.BOX, (6 * float(np.cos(turn)), 6 * float(np.sin(turn)), 0.0), (3.0, 3.0, 2.0), (1, 1, 1), 0.5)
    elevation = np.radians(np.linspace(-10, 10, 5))
    whole = SpinningView(np.eye(4), elevation, 90, 0.3)
    expected = cast(whole, shape.solids()).solid.reshape(5, 90)
    for first in (0, 30, 60):
        sector = SpinningView(np.eye(4), elevation, 30, 0.3 - first * whole.step, columns_per_turn=90)
        np.testing.assert_array_equal(
            cast(sector, shape.solids()).solid.reshape(5, 30), expected[:, first : first + 30]
        )

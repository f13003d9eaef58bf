import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import build_point_grid

from ray_lidarseg.foundation.mask_prompts import grid_points, lidar_points


def test_grid_of_two_by_hand():
    assert grid_points(2, 100, 200).tolist() == [[50, 25], [150, 25], [50, 75], [150, 75]]


def test_grid_is_segment_anythings():
    expected = build_point_grid(7) * (400, 225)
    np.testing.assert_allclose(grid_points(7, 225, 400), expected, rtol=1e-6)


def test_lidar_asks_only_cells_that_points_fall_in():
    projections = np.array([[10, 90], [199.9, 0.0], [12, 95]], np.float32)  # lower left twice, upper right once
    assert lidar_points(2, 100, 200, projections).tolist() == [[150, 25], [50, 75]]


def test_points_outside_the_image_ask_nothing():
    outside = np.array([[-1, 5], [200, 5], [5, 100], [np.nan, 5], [5, np.inf], [5, -0.1]], np.float32)
    assert lidar_points(4, 100, 200, outside).shape == (0, 2)
    assert lidar_points(4, 100, 200, np.zeros((0, 2), np.float32)).shape == (0, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.lists(st.tuples(st.floats(0, 199), st.floats(0, 99)), max_size=20))
def test_lidar_prompts_are_the_grid_points_nearest_to_a_projection(side, pixels):
    projections = np.array(pixels, np.float32).reshape(-1, 2)
    grid = grid_points(side, 100, 200)
    chosen = lidar_points(side, 100, 200, projections)
    half = np.array([100 / side, 50 / side])
    expected = [p for p in grid if any((np.abs(p - q) <= half + 1e-3).all() for q in projections)]
    assert {tuple(p) for p in chosen} <= {tuple(p) for p in expected}
    for q in projections:
        assert any((np.abs(p - q) <= half + 1e-3).all() for p in chosen)

"""Hidden is what is enclosed by nearer points, above and below."""

import numpy as np

from ray_lidarseg.geometry.camera import Projection
from ray_lidarseg.geometry.occlusion import is_visible


def at(rows_px: list[float], depths_m: list[float]) -> Projection:
    """Points in one column of an image of 1600 pixels."""
    pixels = np.column_stack([np.full(len(rows_px), 800.0), np.array(rows_px, np.float64)])
    return Projection(pixels, np.array(depths_m, np.float64), np.ones(len(rows_px), bool))


def test_a_point_between_nearer_ones_is_hidden() -> None:
    assert is_visible(at([100, 120, 140], [10, 20, 10]), 1600).tolist() == [True, False, True]
    assert is_visible(at([100, 120, 140], [10, 11, 10]), 1600).all(), "within the tolerance"


def test_ground_with_nearer_ground_below_is_not() -> None:
    assert is_visible(at([100, 120, 140], [30, 20, 10]), 1600).all()


def test_farther_than_the_reach_nothing_is_hidden() -> None:
    assert is_visible(at([100, 160, 220], [10, 20, 10]), 1600).all()
    assert is_visible(at([25, 40, 55], [10, 20, 10]), 400).all(), "scaled with the image"
    assert not is_visible(at([35, 40, 45], [10, 20, 10]), 400)[1]


def test_what_is_not_in_the_image_is_not_visible_and_no_points_are_none() -> None:
    pair = at([100, 120], [10, 20])
    half_outside = Projection(pair.pixels, pair.depth_m, np.array([True, False]))
    assert is_visible(half_outside, 1600).tolist() == [True, False]
    assert is_visible(at([], []), 1600).shape == (0,)

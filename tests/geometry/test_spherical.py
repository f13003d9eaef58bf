import math

import pytest
import torch

from ray_lidarseg.geometry.spherical import azimuths, inclinations, ranges

POINTS = torch.tensor(
    [
        [3.0, 4.0, 0.0, 0.7],
        [0.0, 2.0, 2.0, 0.1],
        [-1.0, 0.0, -1.0, 0.0],
        [0.0, -5.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.5],
        [0.0, 0.0, 2.0, 0.5],
    ]
)


def test_values_by_hand_in_radians():
    assert ranges(POINTS).tolist() == pytest.approx([5, math.sqrt(8), math.sqrt(2), 5, 0, 2])
    assert azimuths(POINTS).tolist() == pytest.approx([math.atan(4 / 3), math.pi / 2, math.pi, -math.pi / 2, 0, 0])
    assert inclinations(POINTS).tolist() == pytest.approx([0, math.pi / 4, -math.pi / 4, 0, 0, math.pi / 2])


def test_spherical_coordinates_give_the_points_back():
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 20
    horizontal = ranges(points) * inclinations(points).cos()
    back = torch.stack(
        [
            horizontal * azimuths(points).cos(),
            horizontal * azimuths(points).sin(),
            ranges(points) * inclinations(points).sin(),
        ],
        1,
    )
    torch.testing.assert_close(back, points[:, :3], atol=1e-4, rtol=1e-4)


def test_no_points_give_no_coordinates():
    for function in (ranges, azimuths, inclinations):
        assert function(torch.zeros(0, 4)).shape == (0,)

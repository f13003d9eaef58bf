"""Points of each class near the ground, in scans made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.checks.class_heights import ClassHeights, class_heights
from ray_lidarseg.checks.upright import Upright
from ray_lidarseg.types import IGNORE

LEVEL = Upright(up="+z", height_m=1.8, tilt_rad=0.0, lean="x", inlier_ratio=0.9)
POINTS = np.float32([[5, 0, -1.8], [5, 1, -1.4], [0, 5, -1.0], [0, 6, 2.0], [3, 3, -1.8], [18, 10, -1.8]])
CAR, ROAD = 3, 10
LABELS = np.uint8([ROAD, ROAD, CAR, CAR, IGNORE, ROAD])  # the last one is beyond 20 m


def test_points_by_hand() -> None:
    found = class_heights(POINTS, LABELS, LEVEL)
    assert (found.seen[ROAD], found.seen[CAR], found.seen.sum()) == (2, 2, 4)
    assert (found.near[ROAD], found.near[CAR]) == (2, 0)
    assert found.near_ratio((ROAD,)) == 1.0
    assert found.near_ratio((ROAD, CAR)) == 0.5
    assert math.isnan(found.near_ratio((7,)))
    assert math.isnan(found.near_ratio(()))
    twice = sum((found, found), ClassHeights())
    assert twice.near_ratio((CAR, ROAD)) == 0.5
    assert twice.seen.sum() == 8


def test_a_ground_that_leans_is_not_held_against_what_is_far_away() -> None:
    uphill = POINTS.copy()
    uphill[:, 2] += np.tan(np.radians(10.0)) * np.hypot(POINTS[:, 0], POINTS[:, 1])
    assert class_heights(uphill, LABELS, LEVEL).near_ratio((ROAD,)) < 1.0
    assert class_heights(uphill, LABELS, replace(LEVEL, tilt_rad=math.radians(10.0))).near_ratio((ROAD,)) == 1.0


@pytest.mark.parametrize("ground", [None, replace(LEVEL, up="-y"), replace(LEVEL, inlier_ratio=0.0)])
def test_without_a_ground_nothing_is_counted(ground: Upright | None) -> None:
    assert class_heights(POINTS, LABELS, ground).seen.sum() == 0

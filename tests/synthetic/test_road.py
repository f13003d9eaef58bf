from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.synthetic.road import DRIVEABLE, OTHER_FLAT, SIDEWALK, TERRAIN, Road, RoadPlan, ground_distance

PLAN = RoadPlan(
    low=(-80, -60), high=(80, 60), bend_m=0, bend_period_m=200, bend_phase_rad=0, half_width=6, parking=2, num_lanes=1,
    kerb=0.15, verge=0, pavement=3, median=0, crossing_at=30, crossing_half_width=4, has_left_arm=True,
    has_right_arm=False, car_park=(0, 0, 0, 0), relief_m=0, relief_phase_rad=0, bank=0, dash_m=6, salt=0.37,
)  # fmt: skip


def _at(road: Road, x: float, y: float) -> int:
    return int(road.kind(road.place(np.array([x]), np.array([y])))[0])


def test_a_straight_street_by_hand():
    road = Road(PLAN)
    assert _at(road, 0, 0) == DRIVEABLE
    assert _at(road, -12, 7.5) == SIDEWALK
    assert _at(road, -12, -7.5) == SIDEWALK
    assert _at(road, 30, 20) == DRIVEABLE  # the left arm of the crossing
    assert _at(road, 30, -7.5) == SIDEWALK  # no right arm
    heights = road.height(np.array([0.0, -12.0]), np.array([0.0, 7.5]))
    np.testing.assert_allclose(heights, [0, 0.15], atol=1e-4)


def test_far_from_the_street_is_terrain_and_a_median_is_other_flat():
    assert _at(Road(PLAN), -50, 55) == TERRAIN
    road = Road(replace(PLAN, median=1.0))
    assert _at(road, -10, 0.5) == OTHER_FLAT
    assert _at(road, 30, 0.5) == DRIVEABLE  # open at the crossing


@pytest.mark.parametrize("across", [-20.0, -3.0, 0.0, 8.0])
def test_street_coordinates_go_back_and_forth_on_a_bend(across):
    road = Road(replace(PLAN, bend_m=9.0))
    for along in (-40.0, 0.0, 25.0):
        x, y, _ = road.at(along, across)
        place = road.place(np.array([x]), np.array([y]))
        assert place.along[0] == pytest.approx(along, abs=0.25)
        assert place.across[0] == pytest.approx(across, abs=0.25)


def test_lanes_lie_between_median_and_parking():
    plan = replace(PLAN, median=1.0, num_lanes=2, half_width=10)
    assert plan.lane_width == pytest.approx(3.5)
    assert plan.lane(1) == pytest.approx(1 + 1.5 * 3.5)


def test_rays_meet_the_ground_where_its_height_says():
    road = Road(replace(PLAN, relief_m=0.6, bank=0.05))
    origin = np.array([0, 0, 3.0], np.float32)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(500, 3)).astype(np.float32)
    direction[:, 2] = -np.abs(direction[:, 2]) - 0.15
    distance = ground_distance(road, origin, direction)
    hit = np.isfinite(distance)
    points = origin + distance[hit, None] * direction[hit]
    error = np.abs(points[:, 2] - road.height(points[:, 0], points[:, 1]))
    assert hit.mean() > 0.95
    assert np.quantile(error, 0.97) < 0.05
    assert not np.isfinite(ground_distance(road, origin, -direction)).any()

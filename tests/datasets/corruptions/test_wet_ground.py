from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions.severities import SEVERITIES, setting
from ray_lidarseg.datasets.corruptions.wet_ground import MIN_GROUND_POINTS, ground_of, wet_ground

GROUND = semantickitti.SPEC.ground


@pytest.mark.parametrize(("severity", "share"), [("light", 0.68), ("moderate", 0.985), ("heavy", 1.0)])
def test_share_of_the_ground_of_a_real_semantickitti_scan(kitti_scan, severity, share):
    result = wet_ground(kitti_scan, setting("semantickitti", "wet_ground", severity), semantickitti.SPEC.sensor, GROUND)
    left, before = (np.isin(labels, GROUND).sum() for labels in (result.labels, kitti_scan.labels))
    assert 1 - left / before == pytest.approx(share, abs=0.01)
    assert len(result.points) - left == len(kitti_scan.points) - before  # nothing else goes


@pytest.mark.parametrize(("severity", "share"), [("light", 0.07), ("moderate", 0.21), ("heavy", 0.72)])
def test_share_of_the_ground_of_a_real_nuscenes_scan(nuscenes_scan, severity, share):
    chosen = setting("nuscenes", "wet_ground", severity)
    result = wet_ground(nuscenes_scan, chosen, nuscenes.SPEC.sensor, nuscenes.SPEC.ground)
    is_ground = [np.isin(frame.labels, nuscenes.SPEC.ground).sum() for frame in (result, nuscenes_scan)]
    assert 1 - is_ground[0] / is_ground[1] == pytest.approx(share, abs=0.03)  # its ground is told by height alone


def test_more_water_leaves_less_and_survivors_are_darker_and_come_last(street):
    left = []
    for severity in SEVERITIES:
        result = wet_ground(street, setting("nuscenes", "wet_ground", severity), nuscenes.SPEC.sensor, (10,))
        is_ground = result.labels == 10
        left.append(is_ground.sum())
        assert not is_ground[: (street.labels != 10).sum()].any()
        assert len(result.ring) == len(result.points)
        places = {tuple(point[:3]): point[3] for point in street.points}
        assert all(point[3] <= places[tuple(point[:3])] + 1e-6 for point in result.points[is_ground])
    assert (street.labels == 10).sum() >= left[0] > left[-1]


def test_a_scan_with_little_ground_stays_as_it_is(street):
    labels = street.labels.copy()
    labels[np.flatnonzero(labels == 10)[MIN_GROUND_POINTS - 1 :]] = 14
    few = replace(street, labels=labels)
    assert wet_ground(few, setting("nuscenes", "wet_ground", "heavy"), nuscenes.SPEC.sensor, (10,)) is few


def test_angles_and_the_line_through_the_brightness_worked_out_by_hand():
    distance = np.array([3.0, 4.0, 6.0, 8.0])  # on the ground 4 m below
    points = np.stack([distance, 0 * distance, 0 * distance - 4.0, 0 * distance], axis=1).astype(np.float32)
    range_m = np.hypot(distance, 4.0)
    found = ground_of(points, (0.1 * range_m + 0.5) * 4.0 / range_m, np.ones(4, bool), 0.5, 0.0)
    np.testing.assert_allclose(found.range_m, range_m)
    np.testing.assert_allclose(found.cosine, 4.0 / range_m)
    assert (found.slope, found.offset) == pytest.approx((0.1, 0.5))
    np.testing.assert_allclose(found.floor, 0.5 * (0.1 * range_m + 0.5))

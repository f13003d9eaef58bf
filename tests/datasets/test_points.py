import math
from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets.points import num_nonfinite, to_batch, usable
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(32, math.radians(10), math.radians(-30), min_range_m=2.0, max_range_m=100.0, intensity_scale=1.0)
POINTS = np.array(
    [
        [3.0, 4.0, 0.0, 0.5],
        [1.0, 1.0, 1.0, 0.5],  # 1.73 m: ego vehicle
        [np.nan, 5.0, 0.0, 0.5],
        [0.0, 2.0, 0.0, 0.25],  # exactly at the minimum range
        [5.0, np.inf, 0.0, 0.5],
        [5.0, 5.0, 0.0, np.nan],
    ],
    np.float32,
)
USABLE = [True, False, False, True, False, False]


def frame(labels: np.ndarray) -> Keyframe:
    return Keyframe("f", "nuscenes", "s", "train", 0, "f.bin", points=POINTS, labels=labels)


def test_only_finite_points_outside_the_ego_range_are_usable() -> None:
    assert usable(POINTS, SENSOR).tolist() == USABLE
    assert num_nonfinite(POINTS) == 3


@pytest.mark.parametrize("value", [1.0, 3e38, np.inf, -np.inf, np.nan])
def test_usable_is_what_looking_at_each_point_gives(value: float) -> None:
    """Also where the sum over all points overflows although each is finite."""
    points = np.random.default_rng(0).uniform(-4, 4, (50, 4)).astype(np.float32)
    points[7, 1] = points[11, 3] = points[12, 0] = value
    expected = [
        all(math.isfinite(part) for part in point) and sum(float(part) ** 2 for part in point[:3]) >= 4.0
        for point in points
    ]
    assert usable(points, SENSOR).tolist() == expected
    assert not all(expected)
    assert num_nonfinite(points) == (0 if math.isfinite(value) else 3)


def test_a_batch_holds_the_usable_points_with_their_labels() -> None:
    batch, is_usable = to_batch(frame(np.arange(6, dtype=np.uint8)), SENSOR)
    assert is_usable.tolist() == USABLE
    assert batch.labels.tolist() == [0, 3]
    assert batch.points[:, 3].tolist() == [0.5, 0.25]
    assert batch.num_scans == 1


def test_without_labels_every_point_is_ignore() -> None:
    assert to_batch(frame(np.zeros(0, np.uint8)), SENSOR)[0].labels.tolist() == [IGNORE, IGNORE]


def test_intensity_can_be_left_out_without_touching_the_frame() -> None:
    keyframe = frame(np.zeros(0, np.uint8))
    batch, _ = to_batch(keyframe, SENSOR, use_intensity=False)
    assert batch.points[:, 3].tolist() == [0.0, 0.0, 0.0]  # a NaN there does not matter either
    assert keyframe.points[0, 3] == pytest.approx(0.5)


def test_a_scan_whose_intensities_are_all_nan_is_refused_unless_they_are_not_used() -> None:
    keyframe = frame(np.zeros(0, np.uint8))
    points = keyframe.points.copy()
    points[:, 3] = np.nan
    with pytest.raises(DataError, match=r"no point has a finite intensity: set data.use_intensity=no"):
        to_batch(replace(keyframe, points=points), SENSOR)
    assert len(to_batch(replace(keyframe, points=points), SENSOR, use_intensity=False)[0]) == 3


def test_a_scan_without_usable_points_is_an_empty_scan() -> None:
    keyframe = Keyframe("f", "nuscenes", "s", "train", 0, "f.bin", points=POINTS[2:3])
    batch, is_usable = to_batch(keyframe, SENSOR)
    assert (len(batch), batch.num_scans, is_usable.tolist()) == (0, 1, [False])

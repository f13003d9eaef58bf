import numpy as np

from ray_lidarseg.datasets import semantickitti
from ray_lidarseg.datasets.corruptions.channels import channels
from ray_lidarseg.sample import Keyframe, SensorSpec

SENSOR = SensorSpec(4, np.radians(10.0), np.radians(-30.0), 1.0, 80.0, 1.0)


def frame(points: np.ndarray, ring: tuple[int, ...] = ()) -> Keyframe:
    return Keyframe("a", "x", "s", "v", 0, "x", points=points.astype(np.float32), ring=np.array(ring, np.uint8))


def turn(elevation_deg: float, columns: int = 40) -> np.ndarray:
    azimuth = np.linspace(0.01, 2 * np.pi - 0.01, columns)
    height = np.tan(np.radians(elevation_deg))
    return np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth + height, 0 * azimuth], axis=1)


def test_the_files_own_ring_counts_and_stays_within_the_sensor():
    assert channels(frame(np.zeros((3, 4)), (0, 3, 9)), SENSOR).tolist() == [0, 3, 3]


def test_files_beam_by_beam_are_told_by_their_jumps_in_azimuth():
    points = np.concatenate([turn(angle) for angle in (9, 8, 7, 6)])  # not what their inclination would say
    np.testing.assert_array_equal(channels(frame(points), SENSOR), np.repeat(np.arange(4), 40))


def test_elsewhere_the_field_of_view_is_cut_into_equal_parts_from_below():
    points = turn(0.0, 4)
    points[:, 2] = np.tan(np.radians([-29, -15, 5, 60]))
    assert channels(frame(points), SENSOR).tolist() == [0, 1, 3, 3]


def test_no_points_have_no_channel():
    assert len(channels(frame(np.zeros((0, 4))), semantickitti.SPEC.sensor)) == 0

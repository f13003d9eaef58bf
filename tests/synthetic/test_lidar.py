from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.synthetic.lidar import EGO, NOISE, ego_SE3_lidar, scan
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene


@pytest.fixture(scope="module")
def full():
    return scan(Scene(replace(PRESETS["demo"], num_frames=2), 0, 1), 0)


def test_the_file_is_column_major_clockwise_with_the_nuscenes_rings(full):
    assert full.points.shape == (32 * 1084, 5)
    assert full.points.dtype == np.float32
    rings = full.points[:, 4].reshape(1084, 32)
    np.testing.assert_array_equal(rings, np.tile(np.arange(32), (1084, 1)))
    x, y, z = full.points[:, :3].T
    elevation = np.degrees(np.arctan2(z, np.hypot(x, y))).reshape(1084, 32)
    np.testing.assert_allclose(np.median(elevation, axis=0), -30.61 + 1.333 * np.arange(32), atol=0.01)
    azimuth = np.unwrap(np.arctan2(y, x).reshape(1084, 32)[:, 5])
    np.testing.assert_allclose(np.degrees(np.diff(azimuth)), -360 / 1084, atol=1e-2)


def test_no_returns_are_near_points_of_the_ego_class(full):
    reach = np.linalg.norm(full.points[:, :3], axis=1)
    assert 0.15 < (full.labels == EGO).mean() < 0.5
    assert reach[full.labels == EGO].max() < 2.5
    assert reach[full.labels != EGO].min() > 0.3
    assert 0.0005 < (full.labels == NOISE).mean() < 0.005


def test_intensities_are_whole_numbers_and_the_road_is_darker_than_the_pavement(full):
    intensity = full.points[:, 3]
    assert intensity.min() >= 0
    assert intensity.max() <= 255
    np.testing.assert_array_equal(intensity, np.round(intensity))
    assert np.median(intensity[full.labels == 24]) < 0.7 * np.median(intensity[full.labels == 26])


def test_the_ground_lies_below_the_sensor_at_its_mounting_height(full):
    road = (full.labels == 24) & (np.linalg.norm(full.points[:, :3], axis=1) < 8)
    assert np.median(full.points[road, 2]) == pytest.approx(-1.84, abs=0.25)


def test_the_sensor_looks_to_the_left_of_its_x_axis(tiny_scene):
    pose = ego_SE3_lidar(tiny_scene)
    np.testing.assert_allclose(pose[:3, :3] @ [0, 1, 0], [1, 0, 0], atol=0.06)
    np.testing.assert_allclose(pose[:3, 3], [0.944, 0, 1.84])


def test_the_same_frame_is_the_same_bytes(tiny_scene):
    again = Scene(PRESETS["tiny"], 0, 1)
    assert scan(tiny_scene, 1).points.tobytes() == scan(again, 1).points.tobytes()
    assert scan(tiny_scene, 1).points.tobytes() != scan(tiny_scene, 0).points.tobytes()

import json

import numpy as np
import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.camera import Projection, chain, project, split_projection
from ray_lidarseg.geometry.pose import compose, from_matrix, from_quaternion

INTRINSICS = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]])
CAM_SE3_FRONT = from_matrix([0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0])  # x forward, z up


def look(points: list[list[float]]) -> Projection:
    return project(np.array(points, np.float32), CAM_SE3_FRONT, INTRINSICS, 101, 81)


def test_pixels_by_hand():
    found = look([[10.0, 0.0, 0.0], [10.0, 2.0, 1.0], [5.0, -1.0, -1.0]])
    np.testing.assert_allclose(found.pixels, [[50, 40], [30, 30], [70, 60]])
    np.testing.assert_allclose(found.depth_m, [10, 10, 5])
    assert found.is_inside.all()
    assert found.pixel_idx.tolist() == [[50, 40], [30, 30], [70, 60]]


def test_behind_near_and_outside_points_are_marked():
    found = look([[-10.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, 0.0, 0.0], [10.0, 5.0, 0.0], [10.0, 4.99, 0.0]])
    assert found.is_inside.tolist() == [False, False, False, False, True]
    assert np.isfinite(found.pixels).all()
    assert found.pixel_idx[0].tolist() == [-1, -1]


def test_no_points():
    found = project(np.zeros((0, 4), np.float32), CAM_SE3_FRONT, INTRINSICS, 101, 81)
    assert found.pixels.shape == (0, 2)


def test_ego_motion_between_sweep_and_exposure_counts():
    standing = np.eye(4)
    moved_1_m_forward = from_quaternion([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    roof = from_quaternion([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0])
    bonnet = compose(from_quaternion([1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 1.0]), np.linalg.inv(CAM_SE3_FRONT))
    cam_SE3_lidar = chain(roof, standing, moved_1_m_forward, bonnet)
    np.testing.assert_allclose(cam_SE3_lidar @ [10.0, 0.0, 0.0, 1.0], [0.0, -1.0, 8.5, 1.0], atol=1e-12)


def test_a_wrong_pose_in_the_chain_is_named():
    with pytest.raises(DataError, match="global_SE3_camera_ego is not a rigid transform"):
        chain(np.eye(4), np.eye(4), np.eye(4) * 2.0, np.eye(4))


def test_a_kitti_camera_matrix_projects_as_a_whole():
    P2 = np.array([[707.0912, 0, 601.8873, 46.88783], [0, 707.0912, 183.1104, 0.1178601], [0, 0, 1, 0.006203223]])
    intrinsics, cam_SE3_cam0 = split_projection(P2)
    points = np.array([[1.0, 0.5, 8.0], [-3.0, 1.0, 20.0]])
    homogeneous = np.c_[points, np.ones(2)] @ P2.T
    found = project(points, cam_SE3_cam0, intrinsics, 1226, 370)
    np.testing.assert_allclose(found.pixels, homogeneous[:, :2] / homogeneous[:, 2:])
    np.testing.assert_allclose(found.depth_m, homogeneous[:, 2])


def test_something_else_is_no_camera_matrix():
    with pytest.raises(DataError, match="check the P2 line"):
        split_projection(np.arange(12.0).reshape(3, 4))


def test_the_real_rig_sees_its_own_scan(samples):
    """One nuScenes key-frame: each camera sees its share of the scan, and at most two cameras see one point."""
    folder = samples / "mmdet3d_demo" / "nuscenes"
    calibration = json.loads((folder / "calibration.json").read_text())
    scan = np.fromfile(next(folder.glob("*LIDAR_TOP*.bin")), np.float32).reshape(-1, 5)
    scan = scan[np.linalg.norm(scan[:, :3], axis=1) > 2]
    seen = np.zeros(len(scan), int)
    for camera in calibration["images"].values():
        cam_SE3_lidar = from_matrix(camera["lidar2cam"])
        found = project(scan, cam_SE3_lidar, np.array(camera["cam2img"])[:3, :3], 1600, 900)
        assert 0.05 < found.is_inside.mean() < 0.3
        seen += found.is_inside
    assert 0.6 < (seen > 0).mean() < 0.95
    assert seen.max() == 2

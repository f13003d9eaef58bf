import numpy as np
import pytest
import torch

from ray_lidarseg.geometry.camera import chain, pixel_centres, project
from ray_lidarseg.geometry.pose import compose, from_matrix, from_quaternion, inverse
from ray_lidarseg.geometry.rays import LIDAR, joined, lidar_rays, no_rays, pixel_rays, rays_to_points, segment_id
from ray_lidarseg.types import IGNORE, RAY_CAMERA, RAY_SEGMENT

INTRINSICS = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]])
CAM_SE3_FRONT = from_matrix([0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.5, 1.0, 0.0, 0.0, -2.0])  # 2 m ahead, 0.5 m up
REACH_M = (1.0, 50.0)


def test_the_ray_of_the_principal_point_looks_ahead_from_the_optical_centre():
    rays = pixel_rays(np.array([[50.0, 40.0], [150.0, 40.0]]), INTRINSICS, CAM_SE3_FRONT, REACH_M, camera=3)
    torch.testing.assert_close(rays.origins, torch.tensor([[2.0, 0.0, 0.5]] * 2))
    half = 0.5**0.5
    torch.testing.assert_close(rays.directions, torch.tensor([[1.0, 0.0, 0.0], [half, -half, 0.0]]))
    assert rays.near_m.tolist() == [1.0, 1.0]
    assert rays.far_m.tolist() == [50.0, 50.0]
    assert rays.depth_m.isnan().all()
    assert rays.labels.tolist() == [IGNORE, IGNORE]
    assert rays.extras[RAY_CAMERA].tolist() == [3, 3]
    assert rays.extras[RAY_SEGMENT].tolist() == [0, 0]


def test_a_pixel_centre_lies_in_its_own_pixel():
    """The convention: what is projected from the ray of a pixel's centre is found in that pixel again."""
    pixels = np.array([[0, 0], [99, 79], [17, 63]])
    rays = pixel_rays(pixel_centres(pixels), INTRINSICS, CAM_SE3_FRONT, REACH_M)
    points = (rays.origins + 10 * rays.directions).double().numpy()
    found = project(points, CAM_SE3_FRONT, INTRINSICS, 102, 82)
    np.testing.assert_allclose(found.pixels, pixels + 0.5, atol=1e-4)
    assert found.pixel_idx.tolist() == pixels.tolist()


def test_a_ray_begins_where_the_camera_was_when_it_exposed():
    """The vehicle drove 1 m between sweep and exposure: seen from the sweep, the camera is 1 m farther ahead."""
    roof = from_quaternion([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0])
    bonnet = compose(from_quaternion([1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 1.0]), inverse(from_matrix(_AXES)))
    moved = from_quaternion([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    cam_SE3_lidar = chain(roof, np.eye(4), moved, bonnet)
    rays = pixel_rays(np.array([[50.0, 40.0]]), INTRINSICS, cam_SE3_lidar, REACH_M)
    torch.testing.assert_close(rays.origins, torch.tensor([[1.5, 0.0, -1.0]]))


_AXES = [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_rays_to_points_end_at_them_with_their_labels():
    points = np.array([[10.0, 3.0, 1.0, 0.5], [20.0, -3.0, 0.0, 0.5]], np.float32)
    rays = rays_to_points(points, CAM_SE3_FRONT, REACH_M, 1, np.array([4, 7]), np.array([9, 0]))
    ends = rays.origins + rays.depth_m[:, None] * rays.directions
    torch.testing.assert_close(ends, torch.from_numpy(points[:, :3]))
    assert rays.labels.tolist() == [4, 7]
    assert rays.extras[RAY_SEGMENT].tolist() == [9, 0]


def test_beams_start_at_the_sensor():
    points = np.array([[3.0, 4.0, 0.0, 0.5]], np.float32)
    rays = lidar_rays(points, REACH_M, np.array([2]))
    assert rays.origins.tolist() == [[0.0, 0.0, 0.0]]
    torch.testing.assert_close(rays.directions, torch.tensor([[0.6, 0.8, 0.0]]))
    assert rays.depth_m.tolist() == [5.0]
    assert rays.extras[RAY_CAMERA].tolist() == [LIDAR]


def test_segments_of_different_cameras_have_different_numbers_and_none_stays_none():
    found = segment_id(np.array([0, 1, 5, 5]), np.array([7, 7, 0, 65535], np.uint16))
    assert found.tolist() == [7, (1 << 16) + 7, 0, (5 << 16) + 65535]


@pytest.mark.parametrize("count", [0, 2])
def test_joined_bundles_are_one_scan(count):
    points = np.ones((3, 4), np.float32)
    rays = joined([lidar_rays(points, REACH_M)] * count)
    assert len(rays) == 3 * count
    assert rays.num_scans == 1
    assert not rays.scan_idx.any()
    assert set(rays.extras) == set(no_rays(1).extras)

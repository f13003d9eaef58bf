import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.pairing import Pairing, pair_points, pixels_in
from ray_lidarseg.foundation.settings import PairSettings
from ray_lidarseg.sample import CameraImage

INTRINSICS = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]])
OPEN = PairSettings(occlusion=False)


def camera(yaw_deg: float = 0.0, width: int = 101, height: int = 81, forward_m: float = 0.0) -> CameraImage:
    """At the LiDAR's place (or ``forward_m`` before it), looking to ``yaw_deg`` left of its x axis, z up."""
    yaw = np.deg2rad(yaw_deg)
    pose = np.eye(4)
    pose[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
    pose[2, 3] = -forward_m
    return CameraImage(f"CAM_{yaw_deg:g}", "", INTRINSICS, pose, 0, width, height)


def cloud(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_camera_pixel_and_unpaired_points_by_hand():
    points = cloud([10, 0, 0, 0.5], [10, 2, 1, 0.5], [-10, 0, 0, 0.5], [0.9, 0, 0, 0.5], [10, 6, 0, 0.5])
    found = pair_points(points, [camera()])
    assert found.camera.tolist() == [0, 0, -1, -1, -1]
    assert found.pixel.tolist() == [[50, 40], [30, 30], [-1, -1], [-1, -1], [-1, -1]]
    assert (found.camera.dtype, found.pixel.dtype) == (np.int8, np.int16)


def test_ego_motion_moves_the_pixel():
    found = pair_points(cloud([10, 2, 1]), [camera(forward_m=2.0)])  # the vehicle drove 2 m: depth 8 m
    assert found.pixel.tolist() == [[25, 27]]  # 50 - 25, 40 - 12.5


def test_the_camera_nearest_to_its_centre_wins():
    left, right = camera(20), camera(-20)
    points = cloud([10, 1, 0], [10, -1, 0], [10, 4, 0])
    found = pair_points(points, [left, right])
    assert found.camera.tolist() == [0, 1, 0]
    again = pair_points(points, [right, left])
    assert again.camera.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(found.pixel, again.pixel)


def test_distance_to_the_centre_is_relative_to_the_image():
    wide = CameraImage("wide", "", INTRINSICS * [[2], [2], [1]], camera(10).cam_SE3_lidar, 0, 201, 161)
    found = pair_points(cloud([10, 0, 0]), [wide, camera(12)])  # 35 px of 201 against 21 px of 101
    assert found.camera.tolist() == [0]


def test_hidden_points_are_unpaired_unless_asked_for():
    points = cloud([5, 0, 0], [20, 0, 0], [5.2, 0, 0])
    assert pair_points(points, [camera()]).camera.tolist() == [0, -1, 0]
    assert pair_points(points, [camera()], OPEN).camera.tolist() == [0, 0, 0]
    assert pair_points(points, [camera()], PairSettings(occlusion_tolerance_ratio=0.01)).camera.tolist() == [0, -1, -1]


def test_only_points_with_nearer_ones_above_and_below_are_hidden():
    """A wall at 5 m in two rows of points; behind it, between the rows and over them, points at 20 m; in pixels."""
    wall = [[5, 0, 0.04], [5, 0, -0.06]]  # rows 39.2 and 41.2
    between, over, beside = [20, 0, 0], [20, 0, 1], [20, 1.0, 0]  # rows 40 and 35; column 45
    found = pair_points(cloud(*wall, between, over, beside), [camera()])
    assert found.pixel[found.camera == 0].tolist() == [[50, 39], [50, 41], [50, 35], [45, 40]]
    assert found.camera.tolist() == [0, 0, -1, 0, 0]


def test_ground_does_not_hide_itself():
    distance_m = np.geomspace(3, 15, 20)
    ground = np.stack([distance_m, np.zeros(20), np.full(20, -1.0)], 1).astype(np.float32)
    assert (pair_points(ground, [camera()]).camera == 0).all()


def test_cell_and_reach_scale_with_the_image():
    points = cloud([5, 0, 0.05], [5, 0, -0.05], [20, 0.6, 0])  # rows 39, 41, 40; the last three pixels to the left
    widened = {"occlusion_cell_px": 160.0, "occlusion_reach_px": 160.0}  # ten pixels at 101
    assert pair_points(points, [camera()]).camera.tolist() == [0, 0, 0]
    assert pair_points(points, [camera()], PairSettings(**widened)).camera.tolist() == [0, 0, -1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_are_never_paired(bad):
    points = cloud([10, 0, 0, 1], [bad, 0, 0, 1], [10, bad, 0, 1], [10, 0, 0, bad])
    with np.errstate(all="raise"):
        found = pair_points(points, [camera()], OPEN)
    assert found.camera.tolist() == [0, -1, -1, 0]  # an intensity does not matter here


def test_no_points_and_no_cameras():
    assert pair_points(np.zeros((0, 4), np.float32), [camera()]).pixel.shape == (0, 2)
    found = pair_points(cloud([1, 2, 3]), [])
    assert found.camera.tolist() == [-1]
    assert found.segments([]).tolist() == [0]


@limits(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_equals_a_loop_over_points(seed, occlusion):
    """Against a plain twin: each point on its own, the rules as sentences."""
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=[8, 8, 1, 1], size=(60, 4)).astype(np.float32)
    cameras = [camera(0), camera(50), camera(-50)]
    settings = PairSettings(occlusion=occlusion, occlusion_cell_px=5 * 1600 / 101, occlusion_reach_px=10 * 1600 / 101)
    found = pair_points(points, cameras, settings)
    seen = [[_seen(points, index, image, occlusion) for image in cameras] for index in range(len(points))]
    for index, views in enumerate(seen):
        best = min((view for view in views if view is not None), key=lambda view: view[0], default=None)
        expected = -1 if best is None else next(i for i, view in enumerate(views) if view is best)
        assert found.camera[index] == expected
        assert best is None or found.pixel[index].tolist() == [int(best[1]), int(best[2])]


def _seen(points: np.ndarray, index: int, image: CameraImage, occlusion: bool) -> tuple[float, float, float] | None:
    def pixel(point: np.ndarray) -> tuple[float, float, float] | None:
        x, y, depth = image.cam_SE3_lidar[:3, :3] @ point[:3].astype(np.float64) + image.cam_SE3_lidar[:3, 3]
        if depth <= 1.0:
            return None
        u, v = 100 * x / depth + 50, 100 * y / depth + 40
        return (u, v, depth) if 0 < u < 100 and 0 < v < 80 else None

    own = pixel(points[index])
    if own is None:
        return None
    u, v, depth = own
    cells = [(other[0] // 5, other[1] // 5, other[2]) for other in map(pixel, points) if other]
    in_column = [(row - v // 5, near) for column, row, near in cells if column == u // 5]
    above = min(near for row, near in in_column if -2 <= row <= 0)
    below = min(near for row, near in in_column if 0 <= row <= 2)
    if occlusion and depth > 1.2 * max(above, below):
        return None
    return float(np.hypot(u / 101 - 0.5, v / 81 - 0.5)), u, v


def test_segments_under_the_points():
    first, second = np.zeros((81, 101), np.uint16), np.zeros((81, 101), np.uint16)
    first[40, 50], second[40, 50] = 3, 700
    pairing = Pairing(np.array([0, 1, -1, 0], np.int8), np.array([[50, 40], [50, 40], [-1, -1], [51, 40]], np.int16))
    assert pairing.segments([first, second]).tolist() == [3, 700, 0, 0]
    assert pairing.segments([None, second]).tolist() == [0, 700, 0, 0]
    assert pairing.segments([first, second]).dtype == np.uint16


def test_maps_that_do_not_fit_the_images():
    pairing = pair_points(cloud([10, 0, 0]), [camera()])
    with pytest.raises(DataError, match=r"column 50, row 40, but the segment map is 20 x 30"):
        pairing.segments([np.zeros((20, 30), np.uint16)])
    with pytest.raises(DataError, match="expected a segment map for each camera, got 0 and a point in 0"):
        pairing.segments([])


def test_more_than_the_columns_hold():
    with pytest.raises(DataError, match="at most 127 cameras a key-frame, got 128"):
        pair_points(cloud([1, 0, 0]), [camera()] * 128)
    with pytest.raises(DataError, match="40000 x 81 is more than 32767 pixels"):
        pair_points(cloud([1, 0, 0]), [camera(width=40000)])


def test_prompts_of_one_image_are_where_its_visible_points_fall():
    points = cloud([10, 0, 0], [20, 0, 0], [np.nan, 0, 0], [10, 2.03, 1], [-5, 0, 0])
    found = pixels_in(points, camera())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[50, 40], [29.7, 30]], atol=1e-4)
    assert len(pixels_in(points, camera(), OPEN)) == 3

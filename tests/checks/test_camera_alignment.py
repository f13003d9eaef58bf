import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial.transform import Rotation

from ray_lidarseg.checks.camera_alignment import depth_edges, edge_maps, misfit, scores
from ray_lidarseg.sample import CameraImage, SensorSpec

SENSOR = SensorSpec(41, np.radians(20.0), np.radians(-20.0), 1.0, 100.0, 1.0)
WIDTH, HEIGHT, FOCAL = 320, 240, 280.0
BOXES = ((-0.35, -0.10, -0.05, 0.18), (0.08, 0.33, 0.0, 0.26))
"""Azimuth and inclination, radians, of two boxes 8 m away, in front of a wall 20 m away."""
CAM_R_LIDAR = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


def scan() -> np.ndarray:
    azimuth, inclination = np.meshgrid(np.radians(np.arange(-30, 30.1, 0.5)), np.radians(np.arange(-20, 20.1, 1.0)))
    azimuth, inclination = azimuth.reshape(-1), inclination.reshape(-1)
    range_m = np.full(len(azimuth), 20.0)
    for left, right, low, high in BOXES:
        is_box = (azimuth > left) & (azimuth < right) & (inclination > low) & (inclination < high)
        range_m[is_box] = 8.0
    direction = np.stack(
        [np.cos(inclination) * np.cos(azimuth), np.cos(inclination) * np.sin(azimuth), np.sin(inclination)], axis=1
    )
    return np.column_stack([direction * range_m[:, None], np.zeros(len(range_m))]).astype(np.float32)


def picture() -> bytes:
    """White boxes on black, drawn where the camera sees them; so its only edges are theirs."""
    image = Image.new("L", (WIDTH, HEIGHT))
    for left, right, low, high in BOXES:
        corners = []
        for azimuth, inclination in ((left, low), (left, high), (right, high), (right, low)):
            direction = [
                np.cos(inclination) * np.cos(azimuth),
                np.cos(inclination) * np.sin(azimuth),
                np.sin(inclination),
            ]
            x, y, z = CAM_R_LIDAR @ direction
            corners.append((FOCAL * x / z + WIDTH / 2, FOCAL * y / z + HEIGHT / 2))
        ImageDraw.Draw(image).polygon(corners, fill=255)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def camera(turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> CameraImage:
    pose = np.eye(4)
    pose[:3, :3] = CAM_R_LIDAR @ Rotation.from_rotvec(np.radians(turn_deg)).as_matrix()
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return CameraImage("front", "", intrinsics, pose, 0, WIDTH, HEIGHT, picture())


def test_edges_lie_on_the_outline_of_the_boxes_at_their_range() -> None:
    edges = depth_edges(scan(), SENSOR)
    assert np.allclose(np.linalg.norm(edges.points, axis=1), 8.0, atol=0.01)
    assert np.allclose(edges.weights, 3.0)  # a jump of 12 m counts as 9 m
    azimuth = np.arctan2(edges.points[:, 1], edges.points[:, 0])
    inclination = np.arcsin(edges.points[:, 2] / 8.0)
    sides = np.array([side for box in BOXES for side in box[:2]])
    bounds = np.array([bound for box in BOXES for bound in box[2:]])
    upright = ~edges.is_level
    assert upright.sum() > 30
    assert edges.is_level.sum() > 30
    assert np.abs(azimuth[upright, None] - sides).min(axis=1).max() < np.radians(0.5)
    assert np.abs(inclination[edges.is_level, None] - bounds).min(axis=1).max() < np.radians(1.0)


def test_a_plain_wall_has_no_edges() -> None:
    points = scan()
    points[:, :3] *= (20.0 / np.linalg.norm(points[:, :3], axis=1))[:, None]
    edges = depth_edges(points, SENSOR)
    assert len(edges.near_idx) == 0
    assert scores(points, edges, camera()) is None


def test_edge_maps_tell_upright_from_level_edges() -> None:
    pixels = np.zeros((60, 80), np.uint8)
    pixels[:, 40:] = 255
    (upright, level), scale = edge_maps(Image.fromarray(pixels), focal_px=80.0)
    assert scale == 1.0
    assert upright[30, 40] > 1.0
    assert upright[30, 5] <= 0.0
    assert level.max() <= 0.0


@pytest.mark.parametrize(
    "turn_deg", [(0, 0, 0), (3, 0, 0), (0, -4, 0), (0, 0, 5), (-5, 0, 0), (0, 3, 0), (0, 0, -3), (2, 0, 3)]
)
def test_the_peak_is_at_the_rotation_that_was_added(turn_deg: tuple[float, float, float]) -> None:
    points = scan()
    grid = scores(points, depth_edges(points, SENSOR), camera(turn_deg))
    assert grid is not None
    found = misfit([grid])
    assert np.abs(found.rotation_deg - turn_deg).max() <= 1.0
    assert found.angle_deg == pytest.approx(np.linalg.norm(found.rotation_deg))
    assert found.peak >= found.given


def test_misfit_of_grids_one_can_count() -> None:
    grids = []
    for gain in (2.0, 4.0):
        grid = np.zeros((13, 13, 13), np.float32)
        grid[6, 6, 6], grid[6, 6, 3] = 1.0, 1.0 + gain
        grids.append(grid)
    found = misfit(grids)
    assert found.rotation_deg.tolist() == [0.0, 0.0, 3.0]
    assert found.num_images == 2
    assert found.t == pytest.approx(3.0)  # mean 3, standard error sqrt(2) / sqrt(2)
    assert found.given_rank_ratio == pytest.approx(2195 / 2197)

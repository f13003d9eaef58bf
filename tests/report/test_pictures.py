import io

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.report import pictures
from ray_lidarseg.sample import CameraImage
from ray_lidarseg.types import IGNORE

RED = np.array([[255, 0, 0]], np.uint8)


def ball(num_points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    points = np.column_stack(
        [rng.uniform(-20, 20, (num_points, 2)), rng.uniform(-2, 0, num_points), np.ones(num_points)]
    )
    return points.astype(np.float32), rng.integers(0, 16, num_points).astype(np.uint8)


def reddest(image: np.ndarray) -> tuple[float, float]:
    """Row and column of the middle of what is red, as shares of the picture."""
    red = (image[..., 0] > 200) & (image[..., 1] < 120)
    rows, columns = np.nonzero(red)
    return rows.mean() / len(image), columns.mean() / image.shape[1]


@pytest.mark.parametrize(("dataset", "ahead"), [("nuscenes", [0, 20]), ("semantickitti", [20, 0])])
def test_birds_eye_drives_up(dataset, ahead):
    points = np.array([[*ahead, 0, 0]], np.float32)
    row, column = reddest(pictures.birds_eye(points, RED, dataset, half_extent_m=40, size_px=200))
    assert row == pytest.approx(0.25, abs=0.01)
    assert column == pytest.approx(0.5, abs=0.01)


def test_birds_eye_has_right_on_the_right():
    kitti_right = np.array([[0, -20, 0, 0]], np.float32)
    assert reddest(pictures.birds_eye(kitti_right, RED, "semantickitti"))[1] == pytest.approx(0.75, abs=0.01)
    nuscenes_right = np.array([[20, 0, 0, 0]], np.float32)
    assert reddest(pictures.birds_eye(nuscenes_right, RED, "nuscenes"))[1] == pytest.approx(0.75, abs=0.01)


def test_birds_eye_survives_points_that_are_nowhere():
    points = np.array([[np.nan, 0, 0, 0], [1e9, 0, 0, 0], [5, 5, 0, np.nan]], np.float32)
    image = pictures.birds_eye(points, RED.repeat(3, axis=0), "nuscenes", size_px=100)
    assert image.shape == (100, 100, 3)
    assert image.std() > 0


def test_the_higher_point_covers_the_lower():
    points = np.array([[10, 10, 3, 0], [10, 10, -1, 0]], np.float32)
    rgb = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    image = pictures.birds_eye(points, rgb, "nuscenes")
    assert not ((image[..., 2] > 200) & (image[..., 0] < 100)).any()
    assert reddest(image)[1] == pytest.approx(0.625, abs=0.01)


def test_class_and_error_colours():
    truth = np.array([3, 3, IGNORE], np.uint8)
    said = np.array([3, 4, 0], np.uint8)
    assert pictures.class_colours(truth, NUSCENES).tolist() == [[255, 158, 0], [255, 158, 0], list(pictures.UNKNOWN)]
    right, wrong, ignored = pictures.error_colours(truth, said).tolist()
    assert right == list(pictures.RIGHT)
    assert wrong == list(pictures.WRONG)
    assert ignored not in (right, wrong)


def test_range_view_shows_what_is_ahead_in_the_middle():
    sensor = dataset_named("nuscenes").sensor
    points = np.array([[15, 0, -1, 0.5], [0.5, 0, 0, 0]], np.float32)
    image = pictures.range_view(points, RED.repeat(2, axis=0), sensor)
    assert image.shape[1] == pytest.approx(1080, abs=8)
    row, column = reddest(image)
    assert column == pytest.approx(0.5, abs=0.01)
    assert 0.2 < row < 0.5
    assert (image == 255).all(axis=2).mean() > 0.9


def test_range_view_of_a_whole_scan_is_not_blank():
    points, labels = ball(4000)
    image = pictures.range_view(points, pictures.class_colours(labels, NUSCENES), dataset_named("nuscenes").sensor)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_camera_overlay_puts_a_point_where_the_pinhole_does():
    cam_SE3_lidar = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    camera = CameraImage("CAM_FRONT", "", np.array([[50, 0, 50], [0, 50, 25], [0, 0, 1.0]]), cam_SE3_lidar, 0, 100, 50)
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50), (0, 90, 0)).save(buffer, format="jpeg")
    points = np.array([[2.5, 10, 0, 0], [0, -10, 0, 0], [np.nan] * 4], np.float32)
    image = pictures.camera_overlay(camera, buffer.getvalue(), points, RED.repeat(3, axis=0), width_px=200)
    assert image.shape == (100, 200, 3)
    row, column = reddest(image)
    assert column == pytest.approx(62.5 / 100, abs=0.01)
    assert row == pytest.approx(0.5, abs=0.02)
    assert (image[0, 0] == image[0, 0, 0]).all()  # the photo is grey


def test_png_reads_back():
    _, labels = ball()
    image = pictures.class_colours(labels, NUSCENES)[:60].reshape(6, 10, 3)
    read = np.array(Image.open(io.BytesIO(pictures.png(image))).convert("RGB"))
    np.testing.assert_allclose(read.astype(int), image.astype(int), atol=2)

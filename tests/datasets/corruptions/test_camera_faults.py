import io

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.datasets.corruptions.camera_faults import corrupt_cameras
from ray_lidarseg.datasets.image_files import read_rgb
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import CameraImage, Keyframe


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def frame(pixels: np.ndarray | None = None, num_cameras: int = 1) -> Keyframe:
    image = b"" if pixels is None else png(pixels)
    cameras = tuple(
        CameraImage(f"C{number}", f"c{number}.png", np.eye(3), np.eye(4), 0, 200, 100, image)
        for number in range(num_cameras)
    )
    return Keyframe("a", "nuscenes", "s", "train", 0, "x", cameras=cameras)


def seen(changed: Keyframe) -> np.ndarray:
    return read_rgb(changed.cameras[0].image, "x").astype(float)


def test_darkness_takes_light_and_leaves_noise():
    grey = np.full((100, 200, 3), 200, np.uint8)
    levels = [seen(corrupt_cameras(frame(grey), "darkness", severity)) for severity in ("light", "moderate", "heavy")]
    assert [level.mean() for level in levels] == pytest.approx([100, 50, 20], abs=1.5)
    assert all(level.std() > 2 for level in levels)


def test_blur_smears_an_edge_and_keeps_the_brightness():
    edge = np.zeros((100, 200, 3), np.uint8)
    edge[:, 100:] = 200
    edge[50:] = 200 - edge[50:]
    widths = []
    for severity in ("light", "moderate", "heavy"):
        image = seen(corrupt_cameras(frame(edge), "blur", severity))
        assert image.mean() == pytest.approx(100, abs=2)
        widths.append(((image > 40) & (image < 160)).sum())
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize(("severity", "left"), [("light", 4), ("moderate", 3), ("heavy", 1)])
def test_some_of_several_cameras_are_missing_but_never_all(severity, left):
    assert len(corrupt_cameras(frame(num_cameras=6), "missing_camera", severity).cameras) == left
    assert corrupt_cameras(frame(num_cameras=1), "missing_camera", severity).cameras == ()
    assert corrupt_cameras(frame(num_cameras=0), "missing_camera", severity).cameras == ()


def test_a_calibration_is_off_by_the_angle_and_the_distance_stated():
    (camera,) = corrupt_cameras(frame(), "misalignment", "heavy").cameras
    turn, shift = camera.cam_SE3_lidar[:3, :3], camera.cam_SE3_lidar[:3, 3]
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(2.0)
    assert np.linalg.norm(shift) == pytest.approx(0.2)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_the_same_every_time():
    grey = np.full((20, 20, 3), 90, np.uint8)
    one, two = (corrupt_cameras(frame(grey), "darkness", "light").cameras[0].image for _ in range(2))
    assert one == two


def test_unknown_faults_and_absent_images_are_said():
    with pytest.raises(DataError, match=r"unknown camera fault 'darknes': .*darkness"):
        corrupt_cameras(frame(), "darknes", "light")
    with pytest.raises(DataError, match="unknown severity 'weak'"):
        corrupt_cameras(frame(), "blur", "weak")
    with pytest.raises(DataError, match=r"C0 \(c0.png\) has no image in memory"):
        corrupt_cameras(frame(), "blur", "light")

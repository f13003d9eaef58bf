"""The six cameras of the nuScenes vehicle: each with its own mounting, moment and ego pose."""

from dataclasses import dataclass

import cv2
import numpy as np

from ray_lidarseg.synthetic.raycast import cast
from ray_lidarseg.synthetic.road import ground_distance
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.seeds import generator
from ray_lidarseg.synthetic.shading import Light, Lighting, surfels
from ray_lidarseg.synthetic.views import PinholeView

_FULL_WIDTH, _FULL_HEIGHT = 1600, 900
_NO_LABEL = 0
_CALIBRATION = 1000  # in the place of a frame number


@dataclass(frozen=True)
class Mounting:
    """One camera of the real rig (data.md §2.1).

    Attributes:
        channel: nuScenes channel.
        yaw_deg: Heading in the ego frame.
        position_m: In the ego frame.
        focal_px: At 1600 x 900.
        offset_ms: Exposure minus LiDAR time.
    """

    channel: str
    yaw_deg: float
    position_m: tuple[float, float, float]
    focal_px: float
    offset_ms: float


RIG = (
    Mounting("CAM_FRONT_LEFT", 55.2, (1.52, 0.49, 1.51), 1272.6, -43.1),
    Mounting("CAM_FRONT", 0.0, (1.70, 0.02, 1.51), 1266.4, -35.5),
    Mounting("CAM_FRONT_RIGHT", -56.4, (1.55, -0.49, 1.50), 1260.8, -27.6),
    Mounting("CAM_BACK_RIGHT", -110.8, (1.01, -0.48, 1.56), 1259.5, -20.1),
    Mounting("CAM_BACK", 180.0, (0.03, 0.0, 1.58), 809.2, -10.4),
    Mounting("CAM_BACK_LEFT", 108.6, (1.04, 0.48, 1.59), 1256.7, -0.5),
)
"""In order of their exposure."""

_EGO_R_CAMERA_AT_YAW_0 = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)


@dataclass(frozen=True)
class Picture:
    """One rendered image and the hidden truth behind it, which is not written beside the data unless asked for.

    Attributes:
        colour: uint8 [H, W, 3] RGB.
        depth: float32 [H, W] metres along the optical axis, inf for the sky.
        labels: uint8 [H, W] fine category index, 0 for the sky.
    """

    colour: np.ndarray
    depth: np.ndarray
    labels: np.ndarray


def exposure_s(scene: Scene, frame: int, mounting: Mounting) -> float:
    """Time of the image, seconds after the scene's first sweep."""
    return frame * scene.preset.frame_interval_s + mounting.offset_ms / 1000


def ego_SE3_camera(mounting: Mounting) -> np.ndarray:  # noqa: N802
    """float64 [4, 4] mounting; the camera frame is x right, y down, z forward."""
    pose = np.eye(4)
    yaw = np.radians(mounting.yaw_deg)
    c, s = np.cos(yaw), np.sin(yaw)
    pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ _EGO_R_CAMERA_AT_YAW_0
    pose[:3, 3] = mounting.position_m
    return pose


def stated_ego_SE3_camera(scene: Scene, mounting: Mounting) -> np.ndarray:  # noqa: N802
    """The mounting as the tables state it: off by the preset's calibration error."""
    pose = ego_SE3_camera(mounting)
    if scene.preset.calibration_error_deg:
        pose[:3, :3] = calibration_error(scene, 1 + RIG.index(mounting)) @ pose[:3, :3]
    return pose


def calibration_error(scene: Scene, sensor: int) -> np.ndarray:
    """float64 [3, 3] rotation by the preset's calibration error about an axis drawn for the scene and sensor."""
    axis = generator(scene.seed, scene.index, _CALIBRATION, sensor).normal(size=3)
    turn = np.radians(scene.preset.calibration_error_deg) * axis / np.linalg.norm(axis)
    return np.asarray(cv2.Rodrigues(turn)[0], np.float64)


def intrinsics(mounting: Mounting, image_size: tuple[int, int]) -> np.ndarray:
    """float64 [3, 3], the real rig's scaled to the image; pixel centres are at + 0.5."""
    x_ratio, y_ratio = image_size[0] / _FULL_WIDTH, image_size[1] / _FULL_HEIGHT
    focal = mounting.focal_px
    return np.array([[focal * x_ratio, 0, 816.3 * x_ratio], [0, focal * y_ratio, 491.5 * y_ratio], [0, 0, 1]])


def picture(scene: Scene, light: Light, frame: int, mounting: Mounting, lighting: Lighting) -> Picture:
    """Renders one camera at its own moment.

    Args:
        scene: The drive.
        light: Its light.
        frame: Key-frame.
        mounting: Which camera.
        lighting: ``Light.at`` the time of the key-frame, shared by its cameras.
    """
    time_s = exposure_s(scene, frame, mounting) + scene.preset.camera_time_error_ms / 1000
    pose = scene.ego_pose(time_s) @ ego_SE3_camera(mounting)
    matrix = intrinsics(mounting, scene.preset.image_size)
    rng = generator(scene.seed, scene.index, frame, 1 + RIG.index(mounting))
    return render(scene, light, lighting, pose, matrix, time_s, rng)


def render(
    scene: Scene,
    light: Light,
    lighting: Lighting,
    pose: np.ndarray,
    matrix: np.ndarray,
    time_s: float,
    rng: np.random.Generator,
) -> Picture:
    """What a pinhole camera sees.

    Args:
        scene: The drive.
        light: Its light.
        lighting: The shadows.
        pose: float64 [4, 4] world_SE3_cam.
        matrix: float64 [3, 3] intrinsics for the preset's image size.
        time_s: Where moving things are.
        rng: Of the image noise.
    """
    width, height = scene.preset.image_size
    view = PinholeView(pose, matrix, (height, width))
    solids = scene.solids(time_s)
    hits = cast(view, solids, ground_distance(scene.road, view.origin, view.direction))
    seen = surfels(scene.road, solids, view.origin, view.direction, hits, float(1 / matrix[0, 0]))
    image, labels = np.zeros((height * width, 3), np.float32), np.full(height * width, _NO_LABEL, np.uint8)
    is_sky = np.ones(height * width, bool)
    is_sky[seen.ray] = False
    image[seen.ray] = light.shade(seen, view.origin, lighting)
    image[is_sky] = light.sky(view.direction[is_sky])
    labels[seen.ray] = seen.label
    colour = _expose(image.reshape(height, width, 3), scene, rng)
    return Picture(colour, hits.distance.reshape(height, width), labels.reshape(height, width))


def _expose(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Tint, brightness, tone curve and sensor noise of a scene."""
    image = image * np.array(scene.nuisance.tint, np.float32) * np.float32(scene.nuisance.brightness)
    image = image / (1 + 0.18 * image) * np.float32(1.16)  # soft shoulder instead of burnt-out whites
    noise = rng.normal(0, 0.008, image.shape[:2]).astype(np.float32)
    return (np.clip(image + noise[..., None], 0, 1) * 255).astype(np.uint8)

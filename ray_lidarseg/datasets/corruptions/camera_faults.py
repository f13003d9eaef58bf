"""What may be wrong with cameras while image teachers look: dark, blurred, missing, or calibrated badly.

For training on worse images than the model will ever need (it is LiDAR alone); LiDAR points stay as they are.
All strengths are ours: no paper measures LaserMix++ under them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8
from scipy.spatial.transform import Rotation

from ray_lidarseg.datasets.corruptions.severities import SEVERITIES, VERSION
from ray_lidarseg.datasets.image_files import read_rgb
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import nearest, shown
from ray_lidarseg.sample import CameraImage, Keyframe

CAMERA_FAULTS = {
    "darkness": (0.5, 0.25, 0.1),  # share of the light
    "blur": (0.01, 0.02, 0.04),  # length of the smear in widths of the image
    "missing_camera": (0.2, 0.5, 0.8),  # share of the cameras, rounded up; one always stays of several
    "misalignment": (0.5, 1.0, 2.0),  # degrees about a random axis; and as many tenths of a metre
}
"""Strength of each fault, light, moderate and heavy."""

_Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

_READ_NOISE = 4.0  # of 255, standard deviation
_FULL_WELL = 1000.0  # photons of a white pixel in full light: shot noise of 8 of 255, a small sensor's
_JPEG_QUALITY = 95


def corrupt_cameras(frame: Keyframe, fault: str, severity: str) -> Keyframe:
    """The key-frame with failing cameras, the same every time.

    Args:
        frame: Darkness and blur need ``CameraImage.image``; the other two work on rows of an index, too.
        fault: A key of ``CAMERA_FAULTS``.
        severity: ``light``, ``moderate`` or ``heavy``.

    Raises:
        DataError: No such fault or severity (the nearest is named), or an image is not there.
    """
    for what, value, known in (("camera fault", fault, tuple(CAMERA_FAULTS)), ("severity", severity, SEVERITIES)):
        if value not in known:
            raise DataError(
                f"unknown {what} {shown(value)}: expected one of {', '.join(known)}{nearest(value, set(known))}"
            )
    strength = CAMERA_FAULTS[fault][SEVERITIES.index(severity)]
    digest = hashlib.sha256(f"{VERSION}/{fault}/{severity}/{frame.frame_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    if fault == "missing_camera":
        return replace(frame, cameras=_left(frame.cameras, strength, rng))
    if fault == "misalignment":
        return replace(frame, cameras=tuple(_turned(camera, strength, rng) for camera in frame.cameras))
    change = _darker if fault == "darkness" else _smeared
    return replace(frame, cameras=tuple(_repainted(camera, change, strength, rng) for camera in frame.cameras))


def _left(cameras: tuple[CameraImage, ...], share: float, rng: np.random.Generator) -> tuple[CameraImage, ...]:
    count = min(int(np.ceil(share * len(cameras))), max(len(cameras) - 1, 1))
    lost = set(rng.permutation(len(cameras))[:count].tolist())
    return tuple(camera for place, camera in enumerate(cameras) if place not in lost)


def _turned(camera: CameraImage, strength: float, rng: np.random.Generator) -> CameraImage:
    """A wrong extrinsic calibration: turned about a random axis, and moved in a random direction."""
    axis, direction = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 3)))
    error = np.eye(4)
    error[:3, :3] = Rotation.from_rotvec(np.radians(strength) * axis).as_matrix()
    error[:3, 3] = strength / 10 * direction
    return replace(camera, cam_SE3_lidar=error @ camera.cam_SE3_lidar)


def _repainted(camera: CameraImage, change: _Change, strength: float, rng: np.random.Generator) -> CameraImage:
    if not camera.image:
        raise DataError(f"{camera.name} ({camera.uri}) has no image in memory: decode the frame's images first")
    pixels = change(read_rgb(camera.image, camera.uri), strength, rng)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return replace(camera, image=encoded.tobytes())


def _darker(pixels: UInt8[np.ndarray, "H W 3"], share: float, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Less light and the noise that stays: of photons, which are counted, and of reading them."""
    photons = share * pixels / 255 * _FULL_WELL
    counted = photons + np.sqrt(photons) * rng.standard_normal(pixels.shape)
    dark = counted / _FULL_WELL * 255 + _READ_NOISE * rng.standard_normal(pixels.shape)
    return np.clip(np.round(dark), 0, 255).astype(np.uint8)


def _smeared(pixels: UInt8[np.ndarray, "H W 3"], share: float, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Motion blur along a random direction: the mean over a line of a share of the image's width."""
    reach = max(share * pixels.shape[1], 1.0) / 2
    angle = rng.uniform(0, np.pi)
    size = 2 * int(np.ceil(reach)) + 1
    kernel = np.zeros((size, size), np.float32)
    along = np.linspace(-reach, reach, 4 * size)
    rows, columns = (np.round(size // 2 + along * part(angle)).astype(int) for part in (np.sin, np.cos))
    kernel[rows, columns] = 1.0
    return cv2.filter2D(pixels, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)

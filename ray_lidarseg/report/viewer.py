"""The data of the 3-D viewer: a few thousand points of a scan, small enough to lie inside the page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import LidarSegError
from ray_lidarseg.geometry import camera as camera_geometry
from ray_lidarseg.geometry.occlusion import is_visible
from ray_lidarseg.report.pictures import best_camera, ground_axes
from ray_lidarseg.report.scenes import Scene
from ray_lidarseg.report.section import photo_picture
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE

_MAX_POINTS = 14_000  # what a browser draws at full rate on a plain canvas
_REACH_M = 60.0
_UNIT_M = 0.01  # centimetres: 16 bits hold ±327 m
_PHOTO_WIDTH_PX = 640


def cloud(scene: Scene, max_points: int = _MAX_POINTS, every_camera: bool = False) -> dict[str, Any]:
    """Points in centimetres (int16, base64) and one layer of class ids (uint8, base64) for the truth and each run.

    Args:
        scene: A scan and what is said of it.
        max_points: More are drawn at random.
        every_camera: All images behind the front one, not that alone.
    """
    front = best_camera(scene.frame.cameras)
    others = [camera for camera in scene.frame.cameras if camera is not front] if every_camera else []
    cameras = [front, *others] if front else []
    return labelled_cloud(scene.frame, scene.taxonomy, scene.said, max_points, scene.confidence, cameras)


def labelled_cloud(
    frame: Keyframe,
    taxonomy: Taxonomy,
    said: Mapping[str, np.ndarray],
    max_points: int = _MAX_POINTS,
    confidence: Mapping[str, np.ndarray] | None = None,
    cameras: Sequence[CameraImage] = (),
) -> dict[str, Any]:
    """``cloud`` of a frame and class ids [P] by name; IGNORE is drawn faint, an image that cannot be read left out."""
    points = frame.points
    chosen = _chosen(points, max_points)
    xyz = points[chosen, :3]
    xyz = np.stack([*ground_axes(xyz, frame.dataset), xyz[:, 2]], axis=1)  # the viewer looks along y
    truth = {"truth": frame.labels[chosen]} if len(frame.labels) else {}
    layers = {**truth, **{name: labels[chosen] for name, labels in said.items()}}
    sure = {name: np.rint(values[chosen].astype(np.float64) * 255) for name, values in (confidence or {}).items()}
    photos = [_photo(camera, points, chosen) for camera in cameras]
    return {
        "frame": frame.frame_id,
        "points": _base64(np.rint(xyz / _UNIT_M).astype("<i2")),
        "layers": {name: _base64(labels.astype(np.uint8)) for name, labels in layers.items()},
        "confidence": {name: _base64(values.astype(np.uint8)) for name, values in sure.items()},
        "cameras": [photo for photo in photos if photo],
        "class_names": list(taxonomy.class_names),
        "colours": taxonomy.colours.tolist(),
        "ignore": IGNORE,
    }


def _photo(camera: CameraImage, points: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """The image, and which of the chosen points it shows where (the farthest first); empty where there is none."""
    try:
        picture = read_picture(camera.image or storage.read_bytes(camera.uri), camera.name)
    except LidarSegError:
        return {}
    scale = _PHOTO_WIDTH_PX / picture.width
    photo = np.array(picture.resize((_PHOTO_WIDTH_PX, round(picture.height * scale))))
    finite = np.flatnonzero(np.isfinite(points[:, :3]).all(axis=1))
    projection = camera_geometry.project(
        points[finite].astype(np.float64), camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px
    )
    place = np.full(len(points), -1)  # of each point among those projected
    visible = np.flatnonzero(is_visible(projection, camera.width_px))
    place[finite[visible]] = visible
    seen = np.flatnonzero(place[chosen] >= 0)
    seen = seen[np.argsort(-projection.depth_m[place[chosen[seen]]])]
    pixels = projection.pixels[place[chosen[seen]]] * (_PHOTO_WIDTH_PX / camera.width_px)
    return {
        "name": camera.name,
        "source": photo_picture(photo, camera.name).source,
        "index": _base64(seen.astype("<u2")),
        "pixels": _base64(np.floor(pixels).astype("<i2")),
    }


def _chosen(points: np.ndarray, max_points: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        inside = np.flatnonzero((np.abs(points[:, :3]) < _REACH_M).all(axis=1))
    if len(inside) <= max_points:
        return inside
    return np.sort(np.random.default_rng(0).choice(inside, max_points, replace=False))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()

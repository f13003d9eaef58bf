"""Point → camera, pixel and segment: what ties a LiDAR point to the images of its key-frame.

A point is paired with a camera where it projects, through both ego poses, more than ``min_depth_m`` in front of it and
inside the image (SLidR's and the nuScenes devkit's rule), and where nothing nearer hides it. The LiDAR sits above the
cameras and sees over what is in front, so without a test the background's label lands on the foreground (42 pixels at
10 m on nuScenes). Published methods make no test; ours (``geometry.occlusion``) can be switched off.

A point that several cameras see goes to the one where it lies nearest the image's centre, relative to the image's size,
where lenses are sharpest and neighbours complete; ours, since SLidR pairs it once for each camera.

The pixel is the one (u, v) lies in, floor (ScaLR; SLidR rounds): calibrations that were scaled with their images put
pixel centres at + 0.5. At 1,600 pixels half of one hardly counts; on the world's 400 it does (94.9 % of the points lie
on a pixel of their class, rounded 93.8 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, Int16, UInt16

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.settings import PairSettings
from ray_lidarseg.geometry.camera import Projection, project
from ray_lidarseg.geometry.occlusion import is_visible
from ray_lidarseg.sample import CameraImage

_MAX_SIDE_PX = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Pairing:
    """Where the points of one scan lie in its images.

    Attributes:
        camera: [P] position in the key-frame's cameras, -1 where no camera sees the point.
        pixel: [P, 2] column u and row v of the pixel in that camera, -1 where unpaired.
    """

    camera: Int8[np.ndarray, "P"]
    pixel: Int16[np.ndarray, "P 2"]

    def segments(self, maps: Sequence[UInt16[np.ndarray, "H W"] | None]) -> UInt16[np.ndarray, "P"]:
        """[P] id of the segment each point lies on, 0 where none.

        Args:
            maps: Segment map of each camera of the key-frame, in their order; None where there is none.

        Raises:
            DataError: Fewer maps than cameras, or a map smaller than its image.
        """
        point_segment = np.zeros(len(self.camera), np.uint16)
        for position in range(int(self.camera.max(initial=-1)) + 1):
            points = np.flatnonzero(self.camera == position)
            if position >= len(maps):
                raise DataError(f"expected a segment map for each camera, got {len(maps)} and a point in {position}")
            segments = maps[position]
            if segments is None or not len(points):
                continue
            u, v = self.pixel[points].T
            if v.max() >= segments.shape[0] or u.max() >= segments.shape[1]:
                raise DataError(
                    f"camera {position}: points fall on pixels up to column {u.max()}, row {v.max()}, but the segment "
                    f"map is {segments.shape[0]} x {segments.shape[1]} (height x width); make it at the image's size"
                )
            point_segment[points] = segments[v, u]
        return point_segment


def pair_points(
    points: Float[np.ndarray, "P D"], cameras: Sequence[CameraImage], settings: PairSettings | None = None
) -> Pairing:
    """Pairs the points of a scan with the cameras of its key-frame.

    Args:
        points: [P, D], x, y, z first, metres, LiDAR frame; points that are not finite are never paired.
        cameras: Calibration and size of each image.
        settings: Depth and occlusion; None: the defaults.

    Raises:
        DataError: More than 127 cameras, or an image wider or higher than 32767 pixels.
    """
    settings = settings or PairSettings()
    _require_fits(cameras)
    camera = np.full(len(points), -1, np.int8)
    pixel = np.full((len(points), 2), -1, np.int16)
    nearest_centre = np.full(len(points), np.inf)
    finite = np.flatnonzero(np.isfinite(points[:, :3]).all(1))
    for position, image in enumerate(cameras):
        projection = _project(points[finite], image, settings.min_depth_m)
        is_seen = _seen(projection, image, settings)
        seen = np.flatnonzero(is_seen)
        distance = _distance_to_centre(projection.pixels[seen], image)
        is_better = distance < nearest_centre[finite[seen]]
        seen, distance = seen[is_better], distance[is_better]
        nearest_centre[finite[seen]] = distance
        camera[finite[seen]] = position
        pixel[finite[seen]] = np.floor(projection.pixels[seen])
    return Pairing(camera, pixel)


def pixels_in(
    points: Float[np.ndarray, "P D"], image: CameraImage, settings: PairSettings | None = None
) -> Float[np.ndarray, "K 2"]:
    """float32 [K, 2] pixels (u, v) on which points project in one image, hidden ones left out: prompts for SAM.

    A point that another camera sees as well is listed in both.
    """
    settings = settings or PairSettings()
    finite = points[np.isfinite(points[:, :3]).all(1)]
    projection = _project(finite, image, settings.min_depth_m)
    is_seen = _seen(projection, image, settings)
    return projection.pixels[is_seen].astype(np.float32)


def _project(points: Float[np.ndarray, "P D"], image: CameraImage, min_depth_m: float) -> Projection:
    xyz = points[:, :3].astype(np.float64)
    return project(xyz, image.cam_SE3_lidar, image.intrinsics, image.width_px, image.height_px, min_depth_m)


def _seen(projection: Projection, image: CameraImage, settings: PairSettings) -> Bool[np.ndarray, "P"]:
    if not settings.occlusion:
        return projection.is_inside
    spacing = (settings.occlusion_cell_px, settings.occlusion_reach_px, settings.occlusion_tolerance_ratio)
    return is_visible(projection, image.width_px, *spacing)


def _distance_to_centre(pixels: Float[np.ndarray, "K 2"], image: CameraImage) -> Float[np.ndarray, "K"]:
    """[K] distance from the middle of the image in shares of its width and height."""
    size_px = np.array([image.width_px, image.height_px])
    return np.linalg.norm(pixels / size_px - 0.5, axis=1)


def _require_fits(cameras: Sequence[CameraImage]) -> None:
    if len(cameras) > np.iinfo(np.int8).max:
        raise DataError(f"expected at most {np.iinfo(np.int8).max} cameras a key-frame, got {len(cameras)}")
    for image in cameras:
        if max(image.width_px, image.height_px) > _MAX_SIDE_PX:
            raise DataError(f"{image.name}: {image.width_px} x {image.height_px} is more than {_MAX_SIDE_PX} pixels")

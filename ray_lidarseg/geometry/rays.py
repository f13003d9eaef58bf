"""Rays through the pixels of a camera, towards points it sees, and along the LiDAR's own beams, in the LiDAR frame.

Cameras are pin-holes: all data sets here publish undistorted images. ``cam_SE3_lidar`` goes through both ego poses
(``geometry.camera.chain``), so a ray starts where the camera was when it exposed, seen from where the LiDAR was when it
swept: the vehicle's motion between the two is in it, and so is the parallax.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from ray_lidarseg.geometry.pose import inverse
from ray_lidarseg.sample import RayBatch
from ray_lidarseg.types import IGNORE, RAY_CAMERA, RAY_SEGMENT

LIDAR = -1
"""``RAY_CAMERA`` of a ray that is a LiDAR's beam."""


def pixel_rays(
    pixels: Float[np.ndarray, "R 2"],
    intrinsics: Float[np.ndarray, "3 3"],
    cam_SE3_lidar: Float[np.ndarray, "4 4"],
    reach_m: tuple[float, float],
    camera: int = 0,
    segments: Integer[np.ndarray, "R"] | None = None,
) -> RayBatch:
    """The rays of image coordinates: ``d = Rᵀ K⁻¹ (u, v, 1)``, normalised, from the optical centre ``-Rᵀ t``.

    Args:
        pixels: [R, 2] u (right) and v (down); the centre of pixel (column, row) is at (column + 0.5, row + 0.5), see
            ``geometry.camera``.
        intrinsics: K.
        cam_SE3_lidar: (R, t), LiDAR to camera.
        reach_m: Where along the rays to begin and to stop looking.
        camera: Place of the camera in ``Keyframe.cameras``.
        segments: [R] ``segment_id`` of each pixel; None: none.
    """
    lidar_SE3_cam = inverse(cam_SE3_lidar)
    in_camera = np.linalg.solve(intrinsics, np.vstack([pixels.T, np.ones(len(pixels))])).T
    directions = in_camera @ lidar_SE3_cam[:3, :3].T
    return _bundle(lidar_SE3_cam[:3, 3], directions, reach_m, camera, segments=segments)


def rays_to_points(
    points: Float[np.ndarray, "R D"],
    cam_SE3_lidar: Float[np.ndarray, "4 4"],
    reach_m: tuple[float, float],
    camera: int = 0,
    labels: Integer[np.ndarray, "R"] | None = None,
    segments: Integer[np.ndarray, "R"] | None = None,
) -> RayBatch:
    """The rays from a camera's optical centre to points it sees; each ends at its point, not at a rounded pixel.

    Args:
        points: [R, D], x, y, z first, metres, LiDAR frame.
        cam_SE3_lidar: LiDAR to camera.
        reach_m: Where along the rays to begin and to stop looking.
        camera: Place of the camera in ``Keyframe.cameras``.
        labels: [R] class of each point; None: unknown.
        segments: [R] ``segment_id`` of the pixel each point falls on; None: none.

    Source: PonderV2 (the ray ends at the 3-D point).
    """
    origin = inverse(cam_SE3_lidar)[:3, 3]
    directions = points[:, :3].astype(np.float64) - origin
    depth_m = np.linalg.norm(directions, axis=1)
    return _bundle(origin, directions, reach_m, camera, depth_m, labels, segments)


def lidar_rays(
    points: Float[np.ndarray, "R D"], reach_m: tuple[float, float], labels: Integer[np.ndarray, "R"] | None = None
) -> RayBatch:
    """The beams that returned from points: from the sensor's origin, each ends at its point.

    Args:
        points: [R, D], x, y, z first, metres, LiDAR frame, not augmented (there the beams start elsewhere).
        reach_m: Where along the rays to begin and to stop looking.
        labels: [R] class of each point; None: unknown.

    Source: RenderOcc's author compared such rays with labels projected into cameras and found them slightly better.
    """
    directions = points[:, :3].astype(np.float64)
    return _bundle(np.zeros(3), directions, reach_m, LIDAR, np.linalg.norm(directions, axis=1), labels)


def segment_id(
    camera: Integer[np.ndarray, "*shape"] | int, segment: Integer[np.ndarray, "*shape"]
) -> Integer[np.ndarray, "*shape"]:
    """One number for a segment of one of a key-frame's cameras: ``camera << 16 | segment``; 0 stays "no segment"."""
    segment = segment.astype(np.int64)
    return np.where(segment > 0, np.asarray(camera, np.int64) << 16 | segment, 0)


def _bundle(
    origin: Float[np.ndarray, "3"],
    directions: Float[np.ndarray, "R 3"],
    reach_m: tuple[float, float],
    camera: int,
    depth_m: Float[np.ndarray, "R"] | None = None,
    labels: Integer[np.ndarray, "R"] | None = None,
    segments: Integer[np.ndarray, "R"] | None = None,
) -> RayBatch:
    num_rays = len(directions)
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    columns: dict[str, Tensor] = {
        "origins": _float(np.tile(origin, (num_rays, 1))),
        "directions": _float(unit),
        "near_m": torch.full((num_rays,), float(reach_m[0])),
        "far_m": torch.full((num_rays,), float(reach_m[1])),
        "depth_m": torch.full((num_rays,), float("nan")) if depth_m is None else _float(depth_m),
        "labels": _integer(labels, num_rays, IGNORE),
    }
    extras = {RAY_CAMERA: _integer(None, num_rays, camera), RAY_SEGMENT: _integer(segments, num_rays, 0)}
    return RayBatch(scan_idx=torch.zeros(num_rays, dtype=torch.int64), num_scans=1, extras=extras, **columns)


def no_rays(num_scans: int) -> RayBatch:
    """No rays, with the extras all others here have."""
    return RayBatch.none(num_scans, {name: torch.zeros(0, dtype=torch.int64) for name in (RAY_CAMERA, RAY_SEGMENT)})


def joined(bundles: list[RayBatch]) -> RayBatch:
    """All rays of one scan as one batch; there may be no bundle."""
    packed = RayBatch.pack(bundles or [no_rays(1)])
    return replace(packed, scan_idx=torch.zeros_like(packed.scan_idx), num_scans=1)


def _float(values: Float[np.ndarray, "..."]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _integer(values: Shaped[np.ndarray, "R"] | None, num_rays: int, otherwise: int) -> Tensor:
    if values is None:
        return torch.full((num_rays,), otherwise, dtype=torch.int64)
    return torch.from_numpy(values.astype(np.int64))

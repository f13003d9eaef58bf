"""From the points of a file to what a model sees: usable returns only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import ImageSensor, Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

if TYPE_CHECKING:
    import torch

    from ray_lidarseg.sample import PointBatch


def usable(points: np.ndarray, sensor: SensorSpec, use_intensity: bool = True) -> np.ndarray:
    """Which points [P, 4] are real returns: finite, and not nearer than the sensor's minimum range.

    Args:
        points: Of a scan.
        sensor: Its LiDAR.
        use_intensity: False: the intensity may be anything, for it is not used.

    Returns:
        bool [P].
    """
    with np.errstate(invalid="ignore", over="ignore"):
        xyz = points[:, :3]
        far_enough = np.einsum("pc,pc->p", xyz, xyz) >= sensor.min_range_m**2
        looked_at = points if use_intensity else xyz
        has_finite_sum = np.isfinite(looked_at.sum())  # no term of such a sum is infinite or NaN: one pass, not a row's
    return far_enough if has_finite_sum else far_enough & np.isfinite(looked_at).all(axis=1)


def num_nonfinite(points: np.ndarray) -> int:
    """How many points [P, 4] hold a NaN or an infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(points.sum()):  # no term of such a sum is infinite or NaN
            return 0
    return int((~np.isfinite(points).all(axis=1)).sum())


def to_batch(
    frame: Keyframe,
    sensor: SensorSpec,
    use_intensity: bool = True,
    extras: Mapping[str, Shaped[torch.Tensor, "P ..."]] | None = None,
) -> tuple[PointBatch, np.ndarray]:
    """The usable points of a decoded key-frame as a batch of one scan; of an image, all pixels of the sensor's grid.

    Args:
        frame: A decoded key-frame; without labels every point is IGNORE.
        sensor: Its LiDAR.
        use_intensity: False zeroes the intensity column.
        extras: Per-point tensors of all P points of the file.

    Returns:
        The batch, and the bool [P] mask of the file's points that are in it, in file order (all of an image).

    Raises:
        DataError: The intensity of every point is NaN, but the recipe uses it.
    """
    import torch

    from ray_lidarseg.sample import PointBatch

    if isinstance(sensor, ImageSensor):
        scan = images.to_scan(frame, sensor)
        return scan, np.ones(len(scan), bool)
    is_usable = usable(frame.points, sensor, use_intensity)
    if not is_usable.any() and usable(frame.points, sensor, use_intensity=False).any():
        raise DataError(
            f"frame {frame.frame_id}: no point has a finite intensity: set data.use_intensity=no for a model without "
            "it, or sensor.intensity to none in the ontology"
        )
    points = torch.from_numpy(np.compress(is_usable, frame.points, axis=0))  # a quarter of the time of [is_usable]
    if not use_intensity:
        points[:, 3] = 0.0
    labels = frame.labels[is_usable] if len(frame.labels) else np.full(len(points), IGNORE, np.uint8)
    chosen = torch.from_numpy(is_usable)
    kept = {name: value[chosen] for name, value in (extras or {}).items()}
    return PointBatch.of_scan(points, torch.from_numpy(labels.astype(np.int64)), kept), is_usable

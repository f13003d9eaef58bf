"""Rigid transforms as float64 [4, 4] matrices named ``dst_SE3_src``: ``points_dst = dst_SE3_src · points_src``."""

from functools import reduce

import numpy as np
from jaxtyping import Float, Shaped

from ray_lidarseg.errors import DataError

RIGID_TOLERANCE = 1e-3
"""Largest error of ``Rᵀ R`` and of a quaternion's norm; ours: published calibration files have 5 to 7 digits."""


def from_quaternion(
    rotation_wxyz: Shaped[np.ndarray, "4"] | list[float] | tuple[float, ...],
    translation_m: Shaped[np.ndarray, "3"] | list[float] | tuple[float, ...],
) -> Float[np.ndarray, "4 4"]:
    """A pose from a unit quaternion (w, x, y, z) and a translation: what nuScenes' tables hold.

    Raises:
        DataError: Not four and three finite numbers, or the quaternion's norm is not 1.
    """
    quaternion, translation = _numbers(rotation_wxyz, 4, "quaternion"), _numbers(translation_m, 3, "translation")
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1) > RIGID_TOLERANCE:
        raise DataError(
            f"wrong calibration: expected a unit quaternion (w, x, y, z), got {quaternion.tolist()} of norm {norm:.4f}"
        )
    w, x, y, z = quaternion / norm
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return _assemble(np.array(rotation), translation)


def from_matrix(values: Shaped[np.ndarray, "..."] | list[float] | list[list[float]]) -> Float[np.ndarray, "4 4"]:
    """A pose from 16 numbers, or the 12 of its first three rows (KITTI's ``Tr`` and ``poses.txt``), row by row.

    Raises:
        DataError: Another number of values, or not a rigid transform.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    if flat.size not in (12, 16):
        raise DataError(f"wrong calibration: expected 12 or 16 numbers of a pose, got {flat.size}")
    pose = np.vstack([flat[:12].reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])
    if flat.size == 16:
        pose[3] = flat[12:]
    require_rigid(pose, "pose")
    return pose


def require_rigid(dst_SE3_src: Shaped[np.ndarray, "..."], name: str) -> None:
    """Checks that a matrix is a rotation and a translation: no scale, no mirror, no projection.

    Raises:
        DataError: It is not, with the name and what is wrong.
    """
    problem = _problem(np.asarray(dst_SE3_src, np.float64))
    if problem:
        raise DataError(f"wrong calibration: {name} is not a rigid transform, {problem}; check the file it comes from")


def inverse(dst_SE3_src: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """``src_SE3_dst``: rotation ``Rᵀ``, translation ``-Rᵀ t``."""
    rotation = dst_SE3_src[:3, :3].T
    return _assemble(rotation, -rotation @ dst_SE3_src[:3, 3])


def compose(*poses: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The product, so that neighbouring frame names cancel: ``compose(a_SE3_b, b_SE3_c)`` is ``a_SE3_c``."""
    return reduce(np.matmul, poses, np.eye(4))


def transform(dst_SE3_src: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P 3"]:
    """Points in the destination frame, metres, float64; columns behind x, y, z are not read."""
    return points[:, :3] @ dst_SE3_src[:3, :3].T + dst_SE3_src[:3, 3]


def _problem(matrix: np.ndarray) -> str:
    if matrix.shape != (4, 4):
        return f"expected a [4, 4] matrix, got shape {list(matrix.shape)}"
    if not np.isfinite(matrix).all():
        return "it holds NaN or infinity"
    if not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
        return f"its last row is {matrix[3].tolist()}, not [0, 0, 0, 1]"
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if error > RIGID_TOLERANCE:
        return f"its axes are not orthonormal (error {error:.2g}, allowed {RIGID_TOLERANCE:g})"
    return "it is mirrored (determinant -1)" if np.linalg.det(rotation) < 0 else ""


def _assemble(rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation_m
    return pose


def _numbers(values: object, count: int, name: str) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise DataError(f"wrong calibration: expected {count} finite numbers as {name}, got {numbers.tolist()}")
    return numbers

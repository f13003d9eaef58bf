import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion

from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.pose import compose, from_matrix, from_quaternion, inverse, require_rigid, transform

HALF = math.sqrt(0.5)
coordinate = st.floats(-100.0, 100.0)
unit = st.floats(-1.0, 1.0)


rotations = st.tuples(st.floats(0.5, 2.5), unit, unit, unit).map(
    lambda values: np.array(values) / np.linalg.norm(values)
)
translations = st.tuples(coordinate, coordinate, coordinate)


def test_a_quarter_turn_about_z_by_hand():
    pose = from_quaternion([HALF, 0.0, 0.0, HALF], [1.0, 2.0, 3.0])
    assert pose.dtype == np.float64
    moved = transform(pose, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 5.0]]))
    np.testing.assert_allclose(moved, [[1, 3, 3], [0, 2, 8]], atol=1e-12)


@given(rotations, translations)
def test_quaternions_agree_with_pyquaternion(rotation_wxyz, translation_m):
    expected = Quaternion(rotation_wxyz).transformation_matrix
    expected[:3, 3] = translation_m
    np.testing.assert_allclose(from_quaternion(rotation_wxyz, translation_m), expected, atol=1e-9)


@given(rotations, translations, rotations, translations)
def test_inverse_and_composition(rotation_ab, translation_ab, rotation_bc, translation_bc):
    a_SE3_b, b_SE3_c = from_quaternion(rotation_ab, translation_ab), from_quaternion(rotation_bc, translation_bc)
    points = np.array([[1.0, -2.0, 3.0, 0.5], [0.0, 0.0, 0.0, 0.1]])
    moved = transform(compose(a_SE3_b, b_SE3_c), points)
    np.testing.assert_allclose(moved, transform(a_SE3_b, transform(b_SE3_c, points)), atol=1e-9)
    np.testing.assert_allclose(transform(inverse(compose(a_SE3_b, b_SE3_c)), moved), points[:, :3], atol=1e-9)


def test_twelve_and_sixteen_numbers_are_the_same_pose():
    pose = from_quaternion([HALF, HALF, 0.0, 0.0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(from_matrix(pose[:3].reshape(-1).tolist()), pose)
    np.testing.assert_array_equal(from_matrix(pose), pose)
    with pytest.raises(DataError, match=r"expected 12 or 16 numbers of a pose, got 9"):
        from_matrix(np.eye(3))


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (np.diag([1.1, 1.1, 1.1, 1.0]), "not orthonormal"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "mirrored"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.eye(3), r"expected a \[4, 4\] matrix"),
    ],
)
def test_wrong_calibration_is_named(matrix, problem):
    with pytest.raises(DataError, match=f"ego_SE3_lidar is not a rigid transform.*{problem}"):
        require_rigid(matrix, "ego_SE3_lidar")


def test_wrong_quaternions_are_refused():
    with pytest.raises(DataError, match="unit quaternion"):
        from_quaternion([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="4 finite numbers as quaternion"):
        from_quaternion([1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="3 finite numbers as translation"):
        from_quaternion([1.0, 0.0, 0.0, 0.0], [0.0, math.nan, 0.0])

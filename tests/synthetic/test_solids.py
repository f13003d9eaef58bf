import numpy as np
import pytest

from ray_lidarseg.synthetic.solids import AXLE, Kind, Shape, Solids, frame_along, tilt_matrix, yaw_matrix


def _block() -> Solids:
    shape = Shape(17, 0.5)
    shape.add(Kind.BOX, (1, 0, 0.5), (2, 1, 1), (1, 0, 0), 0.3)
    return shape.solids()


def test_placing_turns_then_moves():
    placed = _block().placed((10, 20, 0), np.pi / 2)
    np.testing.assert_allclose(placed.centre[0], [10, 21, 0.5], atol=1e-6)
    corners = placed.corners()[0]
    np.testing.assert_allclose(corners.min(axis=0), [9.5, 20, 0], atol=1e-5)
    np.testing.assert_allclose(corners.max(axis=0), [10.5, 22, 1], atol=1e-5)


def test_a_rider_takes_the_label_of_the_bicycle():
    assert _block().labelled(14).label.tolist() == [14]


def test_concatenation_keeps_order_and_nothing_is_nothing():
    both = Solids.concatenate([_block(), _block().labelled(3)])
    assert both.label.tolist() == [17, 3]
    assert len(Solids.concatenate([])) == 0


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0, 0.8)])
def test_frame_along_is_a_rotation_with_that_z(direction):
    axes = frame_along(np.array(direction, np.float32))
    np.testing.assert_allclose(axes[:, 2], direction, atol=1e-6)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert np.linalg.det(axes) == pytest.approx(1, abs=1e-5)


def test_positive_pitch_lowers_the_front_and_an_axle_lies_along_y():
    assert (tilt_matrix(pitch_rad=0.1) @ [1, 0, 0])[2] < 0
    np.testing.assert_allclose(AXLE[:, 2], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(yaw_matrix(np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-6)


def test_a_rod_reaches_from_start_to_end():
    shape = Shape()
    shape.rod((0, 0, 0), (0, 3, 4), 0.2, (1, 1, 1), 0.1)
    rod = shape.solids()
    assert rod.half[0, 2] == pytest.approx(2.5)
    end = rod.centre[0] + rod.axes[0] @ [0, 0, rod.half[0, 2]]
    np.testing.assert_allclose(end, [0, 3, 4], atol=1e-5)

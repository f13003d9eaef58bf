"""Where classes change, in clouds made by hand: on one surface or at its end."""

import numpy as np
import pytest

from ray_lidarseg.checks.label_edges import LabelEdges, label_edges
from ray_lidarseg.types import IGNORE

WALL, POLE = 14, 15


def poles_before_a_wall() -> tuple[np.ndarray, np.ndarray]:
    """[P, 3] a wall all around at 20 m, and before it 12 poles 6 degrees wide at 8 m; with the class of each point."""
    azimuth, inclination = np.meshgrid(np.radians(np.arange(0, 360, 1.0)), np.radians(np.arange(-10, 10, 2.0)))
    is_pole = np.degrees(azimuth) % 30 < 6
    distance_m = np.where(is_pole, 8.0, 20.0)
    level = np.cos(inclination)
    points = (
        np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(inclination)], -1) * distance_m[..., None]
    )
    return points.reshape(-1, 3), np.where(is_pole, POLE, WALL).reshape(-1)


def test_classes_that_end_with_their_surface_change_at_jumps_alone() -> None:
    points, labels = poles_before_a_wall()
    found = label_edges(points, labels)
    assert found.surface_changes == 0
    assert found.jump_changes == found.jump_pairs > 200
    assert found.surface_pairs + found.jump_pairs == 8 * len(points)
    assert found.tells
    assert found.ratio == 0.0


@pytest.mark.parametrize("unit", [1000.0, 0.01])
def test_neither_the_unit_nor_the_axes_matter(unit: float) -> None:
    points, labels = poles_before_a_wall()
    found, as_it_is = label_edges(points[:, [1, 2, 0]] * unit, labels), label_edges(points, labels)
    assert (found.surface_changes, found.ratio) == (0, 0.0)
    assert found.jump_changes == pytest.approx(as_it_is.jump_changes, rel=0.02)  # of equally near ones any may count


def test_labels_in_another_order_change_as_often_on_a_surface() -> None:
    points, labels = poles_before_a_wall()
    shuffled = np.random.default_rng(0).permutation(labels)
    assert label_edges(points, shuffled).ratio == pytest.approx(1.0, abs=0.15)
    turned = labels.reshape(10, 360)[:, np.r_[15:360, 0:15]].reshape(-1)  # each row by half the way between poles
    assert label_edges(points, turned).ratio > 0.5


def test_too_few_points_pairs_and_changes_tell_nothing() -> None:
    points, labels = poles_before_a_wall()
    assert label_edges(points[:8], labels[:8]) == LabelEdges()
    assert label_edges(points, np.full_like(labels, IGNORE)) == LabelEdges()
    assert not label_edges(points, np.full_like(labels, WALL)).tells
    few = [label_edges(points[start : start + 60], labels[start : start + 60]) for start in range(0, 3600, 60)]
    assert not any(each.tells for each in few)
    assert sum(few, LabelEdges()).tells


def test_points_without_a_class_have_no_part() -> None:
    points, labels = poles_before_a_wall()
    labels = np.where(labels == POLE, IGNORE, labels)
    found = label_edges(points, labels)
    assert found.jump_pairs == 0
    at_sensor = np.vstack([points, np.zeros((3, 3))]), np.append(labels, [WALL] * 3)
    assert label_edges(*at_sensor) == found
    assert found.surface_pairs == 8 * np.count_nonzero(labels == WALL)


def test_a_few_changes_at_jumps_count_for_more_than_they_are() -> None:
    """Of a class that is nearly everywhere, chance decides whether one jump in a hundred changes."""
    assert LabelEdges(20_000, 40, 300, 1).ratio < 0.15 < LabelEdges(20_000, 6000, 300, 100).ratio

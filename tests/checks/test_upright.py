import numpy as np
import pytest

from ray_lidarseg.checks.upright import upright

HEIGHT_M = 1.8


def street() -> np.ndarray:
    """Rings on a plane 1.8 m below the sensor, and two house fronts of uneven height."""
    azimuth = np.radians(np.arange(0.0, 360.0, 1.0))
    inclination = np.radians(np.arange(-25.0, 3.0, 1.0))[:, None]
    direction = np.stack(
        [
            np.cos(inclination) * np.cos(azimuth),
            np.cos(inclination) * np.sin(azimuth),
            np.broadcast_to(np.sin(inclination), (len(inclination), len(azimuth))),
        ],
        axis=-1,
    ).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        to_ground = np.where(direction[:, 2] < 0, -HEIGHT_M / direction[:, 2], np.inf)
        to_wall = 12.0 / np.abs(direction[:, 1])
    range_m = np.minimum(to_ground, to_wall)
    return direction[range_m < 60] * range_m[range_m < 60, None]


def turned(points: np.ndarray, axis: str, angle_deg: float) -> np.ndarray:
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    result = points.copy()
    result[:, first] = cos * points[:, first] - sin * points[:, second]
    result[:, second] = sin * points[:, first] + cos * points[:, second]
    return result


def test_a_level_scan_is_upright_and_the_ground_is_where_it_is() -> None:
    found = upright(street())
    assert found.up == "+z"
    assert found.height_m == pytest.approx(HEIGHT_M, abs=0.02)
    assert np.degrees(found.tilt_rad) < 0.2
    assert found.inlier_ratio > 0.9


@pytest.mark.parametrize(
    ("up", "columns", "signs"),
    [
        ("-z", (0, 1, 2), (1, -1, -1)),
        ("+y", (0, 2, 1), (1, 1, 1)),
        ("-y", (0, 2, 1), (1, -1, 1)),
        ("+x", (2, 1, 0), (1, 1, 1)),
        ("-x", (2, 1, 0), (-1, 1, 1)),
    ],
)
def test_the_axis_that_points_up_is_named(up: str, columns: tuple[int, ...], signs: tuple[int, ...]) -> None:
    found = upright(street()[:, list(columns)] * signs)
    assert found.up == up
    assert found.height_m == pytest.approx(HEIGHT_M, abs=0.05)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("angle_deg", [6.0, -6.0])
def test_a_turned_scan_leans_about_the_axis_it_was_turned_about(axis: str, angle_deg: float) -> None:
    found = upright(turned(street(), axis, angle_deg))
    assert found.up == "+z"
    assert np.degrees(found.tilt_rad) == pytest.approx(6.0, abs=0.3)
    assert found.lean == axis


def test_turning_about_the_vertical_changes_nothing() -> None:
    found = upright(turned(street(), "z", 40.0))
    assert np.degrees(found.tilt_rad) < 0.2


def test_too_few_points_for_a_ground() -> None:
    found = upright(np.array([[5.0, 0.0, -1.0], [0.0, 5.0, -1.0], [5.0, 5.0, 0.0]]))
    assert np.isnan(found.height_m)
    assert found.inlier_ratio == 0.0

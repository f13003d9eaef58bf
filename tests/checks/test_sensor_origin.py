"""Where the sensor stood, in clouds made by hand."""

import numpy as np
import pytest

from ray_lidarseg.checks.sensor_origin import find_origin


def ground(num_rings: int = 16, num_columns: int = 180) -> np.ndarray:
    """[P, 3] rings on level ground 1.8 m below a sensor at the origin, from 3 to 60 m."""
    radius_m = 1.8 / np.tan(np.linspace(np.arctan(1.8 / 3), np.arctan(1.8 / 60), num_rings))
    azimuth = np.linspace(-np.pi, np.pi, num_columns, endpoint=False)
    x, y = np.outer(radius_m, np.cos(azimuth)), np.outer(radius_m, np.sin(azimuth))
    return np.stack([x, y, np.full_like(x, -1.8)], axis=-1).reshape(-1, 3)


def test_a_scan_about_its_sensor() -> None:
    found = find_origin(ground())
    assert not found.is_elsewhere
    assert np.hypot(*found.densest_m) < 3.0
    assert found.density_ratio > 0.9


@pytest.mark.parametrize("offset_m", [(20.0, 0.0), (-30.0, 40.0), (3e5, -5e6)])
def test_a_moved_scan_says_where_the_sensor_stood(offset_m: tuple[float, float]) -> None:
    found = find_origin(ground() + np.array([*offset_m, 0.0]))
    assert found.is_elsewhere
    np.testing.assert_allclose(found.densest_m, offset_m, atol=4.0)


def test_the_unit_does_not_matter() -> None:
    assert not find_origin(ground() * 1000).is_elsewhere
    assert find_origin((ground() + np.array([30.0, 0.0, 0.0])) * 1000).is_elsewhere


def test_a_narrow_view_of_a_wall_is_no_other_origin() -> None:
    """A solid-state sensor behind a lorry sees little else; from far away nothing near is left."""
    rng = np.random.default_rng(0)
    azimuth = rng.uniform(-0.5, 0.5, 4000)
    wall = np.stack([np.full(4000, 15.0), 15 * np.tan(azimuth) * 0.2, rng.uniform(-1.5, 1.5, 4000)], axis=1)
    near = ground()
    near = near[(np.abs(np.arctan2(near[:, 1], near[:, 0])) < 0.5) & (near[:, 0] < 14)]
    scan = np.concatenate([wall, near])
    assert not find_origin(scan).is_elsewhere
    assert find_origin(scan + np.array([60.0, 0.0, 0.0])).is_elsewhere

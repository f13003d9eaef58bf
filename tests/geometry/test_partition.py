import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.geometry import partition
from ray_lidarseg.geometry.partition import areas, band_edges, draw_num_areas, sectors
from ray_lidarseg.sample import SensorSpec

NUSCENES = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1 / 255)


def bands(inclination: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    return partition.bands(inclination, torch.zeros(len(inclination), dtype=torch.int64), [edges])


def slow_band(phi: float, edges: list[float]) -> int:
    """The published rule, literally: clamp into the field of view, then look for lower < phi <= upper."""
    phi = min(max(phi, edges[-1] + 1e-5), edges[0] - 1e-5)
    return next(i for i in range(len(edges) - 1) if edges[i + 1] < phi <= edges[i])


def test_edges_are_equal_angles_in_radians_from_the_top():
    expected = [math.radians(angle) for angle in (10, 0, -10, -20, -30)]
    assert band_edges(4, NUSCENES).tolist() == pytest.approx(expected)


def test_bands_by_hand():
    inclination = torch.tensor([math.radians(angle) for angle in (50, 10, 5, -0.1, -15, -25, -30, -80)])
    assert bands(inclination, band_edges(4, NUSCENES)).tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_an_edge_belongs_to_the_band_below_it():
    edges = torch.tensor([0.5, 0.25, 0.0, -0.25])
    assert bands(edges, edges).tolist() == [0, 1, 2, 2]


@given(st.integers(1, 8), st.lists(st.floats(-1.5, 1.5, width=32), max_size=50))
def test_bands_agree_with_the_published_rule(num_areas, inclination):
    edges = band_edges(num_areas, NUSCENES)
    found = bands(torch.tensor(inclination, dtype=torch.float32), edges)
    assert found.tolist() == [slow_band(phi, edges.tolist()) for phi in inclination]


def test_every_scan_has_its_own_edges_and_number_of_bands():
    inclination, scan_idx = torch.tensor([0.1, -0.4, 0.1, -0.4, 0.1]), torch.tensor([0, 0, 1, 1, 2])
    edges = [band_edges(1, NUSCENES), torch.tensor([0.3, 0.2, 0.0, -0.5]), torch.tensor([0.3, 0.0, -0.5])]
    assert partition.bands(inclination, scan_idx, edges).tolist() == [0, 0, 1, 2, 0]
    assert partition.bands(inclination[:0], scan_idx[:0], []).tolist() == []


@pytest.mark.parametrize("num_areas", range(1, 9))
def test_degrees_confused_with_radians_would_put_all_points_in_one_band(num_areas):
    inclination = torch.linspace(NUSCENES.fov_down_rad, NUSCENES.fov_up_rad, 801)
    counts = torch.bincount(bands(inclination, band_edges(num_areas, NUSCENES)), minlength=num_areas)
    assert len(counts) == num_areas
    assert (counts - 801 / num_areas).abs().max() < 2


def test_a_sensor_in_degrees_is_refused():
    with pytest.raises(ValueError, match="radians"):
        band_edges(4, SensorSpec(32, 10.0, -30.0, 1.0, 50.0, 1.0))


def test_an_upside_down_sensor_and_no_band_are_refused():
    with pytest.raises(ValueError, match="fov_down_rad < fov_up_rad"):
        band_edges(4, SensorSpec(32, -0.5, 0.2, 1.0, 50.0, 1.0))
    with pytest.raises(ValueError, match="num_areas=0"):
        band_edges(0, NUSCENES)


def test_sectors_by_hand():
    azimuth = torch.tensor([-math.pi, -0.1, 0.1, 3.1, math.pi])
    assert sectors(azimuth, 2).tolist() == [0, 0, 1, 1, 1]
    assert sectors(azimuth, 4).tolist() == [0, 1, 2, 3, 3]


def test_areas_form_a_chequerboard():
    high_left, high_right = [1.0, 1.0, 0.1, 0.0], [1.0, -1.0, 0.1, 0.0]
    low_left, low_right = [1.0, 1.0, -0.6, 0.0], [1.0, -1.0, -0.6, 0.0]
    points, scan_idx = torch.tensor([high_left, high_right, low_left, low_right]), torch.zeros(4, dtype=torch.int64)
    assert (areas(points, scan_idx, [band_edges(2, NUSCENES)], num_sectors=2) % 2).tolist() == [1, 0, 0, 1]
    assert areas(points, scan_idx, [band_edges(2, NUSCENES)]).tolist() == [0, 0, 1, 1]


def test_draws_are_uniform_and_repeatable():
    draw = lambda: [draw_num_areas((3, 4, 5, 6), generator) for _ in range(2000)]  # noqa: E731
    generator = torch.Generator().manual_seed(3)
    first = draw()
    generator.manual_seed(3)
    assert draw() == first
    assert set(first) == {3, 4, 5, 6}
    assert min(Counter(first).values()) > 400


def test_drawing_from_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one number"):
        draw_num_areas((), torch.Generator())

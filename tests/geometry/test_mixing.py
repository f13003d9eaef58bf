import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.mixing import exchange, mix, mix_pairs, mix_scans
from ray_lidarseg.geometry.partition import areas, band_edges
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(64, math.radians(3.0), math.radians(-25.0), 1.0, 50.0, 1.0)


def scan_of(num_points: int, seed: int, first_id: int = 0) -> PointBatch:
    """Points also far outside the field of view; labels and extras are functions of a unique id per point."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, 4, generator=generator) * torch.tensor([20.0, 20.0, 6.0, 1.0])
    ids = torch.arange(first_id, first_id + num_points)
    points[:, 3] = ids.float()
    extras = {
        "id": ids.to(torch.int32),
        "has_pixel": ids % 3 == 0,
        "feature": (ids[:, None, None] * torch.ones(2, 3)).half(),
    }
    return PointBatch.of_scan(points, ids % 17, extras)


def assert_every_column_follows_its_point(mixed: PointBatch) -> None:
    ids = mixed.points[:, 3].long()
    assert torch.equal(mixed.labels, ids % 17)
    assert torch.equal(mixed.extras["id"], ids.to(torch.int32))
    assert torch.equal(mixed.extras["has_pixel"], ids % 3 == 0)
    assert torch.equal(mixed.extras["feature"], (ids[:, None, None] * torch.ones(2, 3)).half())


def assert_permutation(before: torch.Tensor, after: torch.Tensor) -> None:
    sort = lambda points: points[points[:, 3].argsort()]  # noqa: E731
    assert torch.equal(sort(before), sort(after))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 10_000))
def test_both_mixed_scans_are_a_permutation_of_both_scans(num_a, num_b, num_areas, num_sectors, seed):
    a, b = scan_of(num_a, seed), scan_of(num_b, seed + 1, first_id=num_a)
    edges = band_edges(num_areas, SENSOR)
    first, second = mix(a, b, edges, num_sectors)
    assert first.num_scans == second.num_scans == 1
    assert_permutation(torch.cat([a.points, b.points]), torch.cat([first.points, second.points]))
    for mixed, parity_of_a in ((first, 0), (second, 1)):
        assert_every_column_follows_its_point(mixed)
        comes_from_b = (mixed.extras["id"] >= num_a).long()
        assert torch.equal(areas(mixed.points, mixed.scan_idx, [edges], num_sectors) % 2, comes_from_b ^ parity_of_a)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 60), st.integers(1, 8), st.integers(0, 10_000))
def test_a_scan_mixed_with_itself_is_itself(num_points, num_areas, seed):
    scan = scan_of(num_points, seed)
    for mixed in mix(scan, scan, band_edges(num_areas, SENSOR)):
        assert_permutation(scan.points, mixed.points)
        assert_every_column_follows_its_point(mixed)


def test_four_bands_by_hand():
    inclination = torch.tensor([math.radians(angle) for angle in (40.0, 0.0, -7.0, -14.0, -20.0, -80.0)])
    points = torch.stack([inclination.cos(), torch.zeros(6), inclination.sin(), torch.zeros(6)], 1)
    a = PointBatch.of_scan(points, torch.arange(6))
    b = PointBatch.of_scan(points, torch.arange(6) + 10)
    first, second = mix(a, b, band_edges(4, SENSOR))
    assert first.labels.tolist() == [0, 1, 3, 12, 14, 15]
    assert second.labels.tolist() == [2, 4, 5, 10, 11, 13]


def test_one_band_exchanges_nothing():
    a, b = scan_of(30, 0), scan_of(20, 1, first_id=30)
    first, second = mix(a, b, band_edges(1, SENSOR))
    assert torch.equal(first.points, a.points)
    assert torch.equal(second.points, b.points)


def test_points_outside_the_field_of_view_stay():
    straight = torch.tensor([[0.0, 0.0, 5.0, 0.0], [0.0, 0.0, -5.0, 1.0]])
    first, second = mix(PointBatch.of_scan(straight), PointBatch.of_scan(torch.zeros(0, 4)), band_edges(6, SENSOR))
    assert first.points.tolist() == [[0.0, 0.0, 5.0, 0.0]]
    assert second.points.tolist() == [[0.0, 0.0, -5.0, 1.0]]


def test_pairs_equal_mixing_one_by_one_with_the_same_draws():
    a = PointBatch.pack([scan_of(40, 0), scan_of(0, 1), scan_of(25, 2, 40)])
    b = PointBatch.pack([scan_of(10, 3, 100), scan_of(30, 4, 110), scan_of(5, 5, 140)])
    mixed = mix_pairs(a, b, SENSOR, (3, 4, 5, 6), torch.Generator().manual_seed(8))
    generator = torch.Generator().manual_seed(8)
    drawn = [(3, 4, 5, 6)[int(torch.randint(4, (), generator=generator))] for _ in range(3)]
    expected = [
        scan
        for index, num_areas in enumerate(drawn)
        for scan in mix(a.scan(index), b.scan(index), band_edges(num_areas, SENSOR))
    ]
    assert mixed.num_scans == 6
    assert torch.all(mixed.scan_idx.diff() >= 0)
    for found, one in zip(mixed.scans(), expected, strict=True):
        assert torch.equal(found.points, one.points)
        assert_every_column_follows_its_point(found)


def test_pairs_draw_one_number_each_from_the_generator():
    a, b = (PointBatch.pack([scan_of(50, 0)] * 8), PointBatch.pack([scan_of(50, 1)] * 8))
    mixed = mix_pairs(a, b, SENSOR, (2, 3, 4, 5, 6), torch.Generator().manual_seed(0))
    again = mix_pairs(a, b, SENSOR, (2, 3, 4, 5, 6), torch.Generator().manual_seed(0))
    assert torch.equal(mixed.points, again.points)
    assert len({tuple(scan.points[:, 0].tolist()) for scan in mixed.scans()[::2]}) > 1


def test_no_pairs_give_no_scans():
    none = PointBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)
    with_no_points = mix_scans(none, none, [])
    assert (with_no_points.num_scans, len(with_no_points)) == (0, 0)


def test_unequal_numbers_of_scans_are_refused():
    two = PointBatch.pack([scan_of(3, 0), scan_of(3, 1)])
    with pytest.raises(ValueError, match="as many scans in a as in b"):
        mix_pairs(two, scan_of(3, 2), SENSOR, (4,), torch.Generator())


def test_different_extras_are_refused():
    with pytest.raises(ValueError, match="extras differ"):
        mix(scan_of(3, 0), PointBatch.of_scan(torch.zeros(2, 4)), band_edges(4, SENSOR))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 100))
def test_exchange_gives_what_leaves_to_the_other_scan(num_a, num_b, seed):
    a, b = scan_of(num_a, seed), scan_of(num_b, seed + 1, first_id=num_a)
    generator = torch.Generator().manual_seed(seed)
    leaves_a, leaves_b = (torch.rand(len(batch), generator=generator) < 0.5 for batch in (a, b))
    mixed = exchange(a, b, leaves_a, leaves_b)
    assert torch.equal(mixed.scan(0).points, torch.cat([a.points[~leaves_a], b.points[leaves_b]]))
    assert torch.equal(mixed.scan(1).points, torch.cat([a.points[leaves_a], b.points[~leaves_b]]))
    assert_every_column_follows_its_point(mixed)

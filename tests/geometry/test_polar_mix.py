import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.polar_mix import cut_mix, in_rectangle, in_sector, paste, polar_mix
from ray_lidarseg.geometry.spherical import azimuths, inclinations, ranges
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(64, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


def scan_of(num_points: int, seed: int, first_id: int = 0) -> PointBatch:
    """Points in all directions; intensity is a unique id, label and extras are functions of it; every 7th is IGNORE."""
    points = torch.randn(num_points, 4, generator=torch.Generator().manual_seed(seed)) * 20
    ids = torch.arange(first_id, first_id + num_points)
    points[:, 3] = ids.float()
    labels = torch.where(ids % 7 == 0, 255, ids % 5)
    return PointBatch.of_scan(points, labels, {"id": ids, "feature": (ids[:, None] * torch.ones(2)).half()})


def assert_every_column_follows_its_point(batch: PointBatch) -> None:
    ids = batch.points[:, 3].long()
    assert torch.equal(batch.labels, torch.where(ids % 7 == 0, 255, ids % 5))
    assert torch.equal(batch.extras["id"], ids)
    assert torch.equal(batch.extras["feature"], (ids[:, None] * torch.ones(2)).half())


def assert_packed(batch: PointBatch, num_scans: int) -> None:
    assert batch.num_scans == num_scans
    assert bool((batch.scan_idx.diff() >= 0).all())
    assert len(batch.scan_idx) == len(batch.points)


def at(*degrees: float, inclination_deg: float = 0.0) -> PointBatch:
    angle, up = torch.tensor(degrees).deg2rad(), math.radians(inclination_deg)
    x, y = math.cos(up) * angle.cos(), math.cos(up) * angle.sin()
    return PointBatch.of_scan(torch.stack([x, y, torch.full_like(x, math.sin(up)), torch.zeros_like(x)], dim=1))


def rad(*degrees: float) -> torch.Tensor:
    return torch.tensor(degrees).deg2rad()


def test_a_sector_by_hand_also_across_the_seam():
    scan = at(-170.0, -90.0, -10.0, 10.0, 90.0, 170.0)
    assert in_sector(scan, rad(0.0), rad(100.0)).tolist() == [False, False, False, True, True, False]
    assert in_sector(scan, rad(160.0), rad(40.0)).tolist() == [True, False, False, False, False, True]
    assert in_sector(scan, rad(-200.0), rad(40.0)).tolist() == [True, False, False, False, False, True]
    assert not in_sector(scan, rad(0.0), rad(0.0)).any()
    assert in_sector(scan, rad(33.0), rad(360.0)).all()


def test_each_scan_has_its_own_sector():
    scans = PointBatch.pack([at(10.0, 100.0), at(10.0, 100.0)])
    assert in_sector(scans, rad(0.0, 90.0), rad(20.0, 20.0)).tolist() == [True, False, False, True]


def test_a_rectangle_by_hand():
    scans = PointBatch.pack([at(10.0, 100.0, inclination_deg=up) for up in (5.0, -5.0)])
    sides = (rad(0.0, 0.0), rad(20.0, 20.0), rad(8.0, 8.0), rad(0.0, 0.0))
    assert in_rectangle(scans, *sides).tolist() == [True, False, False, False]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000), st.floats(0.1, 6.2))
def test_without_pasting_nothing_is_lost_and_everything_follows(num_a, num_b, seed, sector_rad):
    a = PointBatch.pack([scan_of(num_a, seed), scan_of(3, seed + 1, 100)])
    b = PointBatch.pack([scan_of(num_b, seed + 2, 200), scan_of(4, seed + 3, 300)])
    mixed = polar_mix(a, b, [0, 1], sector_rad, 1.0, 0.0, torch.Generator().manual_seed(seed))
    assert_packed(mixed, 4)
    assert_every_column_follows_its_point(mixed)
    assert sorted(mixed.extras["id"].tolist()) == sorted([*a.extras["id"].tolist(), *b.extras["id"].tolist()])
    first, complement = mixed.scan(0), mixed.scan(1)
    from_b = first.extras["id"] >= 200
    assert torch.equal(complement.extras["id"] >= 200, ~torch.isin(complement.extras["id"], a.extras["id"]))
    # the sector decides alone: no direction of scan 0 comes from both
    drawn = 2 * math.pi * torch.rand(2, 5, generator=torch.Generator().manual_seed(seed))[:1, 1] - math.pi
    width = torch.tensor([sector_rad])
    assert in_sector(first.select(from_b), drawn, width).all()
    assert not in_sector(first.select(~from_b), drawn, width).any()


def test_pasted_instances_by_hand():
    scans = at(0.0).with_labels(torch.tensor([4]))
    donors = at(0.0, 90.0, 180.0).with_labels(torch.tensor([0, 1, 255]))
    pasted = paste(scans, donors, [0, 1], rad(0.0, 90.0)[None])
    assert pasted.labels.tolist() == [4, 0, 1, 0, 1]
    expected = [0.0, 0.0, 90.0, 90.0, 180.0]
    found = azimuths(pasted.points).rad2deg().abs()
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=0)
    assert len(paste(scans, donors, [], rad(0.0)[None])) == 1
    assert len(paste(scans, donors, [0], torch.tensor([[math.nan, 0.0]]))) == 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 1000))
def test_copies_keep_height_range_label_and_extras(num_a, num_b, seed):
    scans = PointBatch.pack([scan_of(num_a, seed), scan_of(2, seed, 500)])
    donors = PointBatch.pack([scan_of(num_b, seed + 1, 100), scan_of(5, seed + 2, 600)])
    angles = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)) * 6
    pasted = paste(scans, donors, [1, 2], angles)
    assert_packed(pasted, 2)
    assert_every_column_follows_its_point(pasted)
    for index in range(2):
        whole, scan, donor = pasted.scan(index), scans.scan(index), donors.scan(index)
        assert torch.equal(whole.points[: len(scan)], scan.points)
        instances = donor.select(torch.isin(donor.labels, torch.tensor([1, 2])))
        copies = whole.points[len(scan) :]
        assert len(copies) == 3 * len(instances)
        for copy in copies.split(len(instances)) if len(instances) else ():
            torch.testing.assert_close(copy[:, 2:], instances.points[:, 2:])
            torch.testing.assert_close(ranges(copy), ranges(instances.points))


def test_each_result_gets_the_instances_of_the_other_scan_three_times():
    a, b = scan_of(40, 0), scan_of(30, 1, 100)
    mixed = polar_mix(a, b, [3], math.pi, 0.0, 1.0, torch.Generator().manual_seed(0))
    for result, own, other in ((mixed.scan(0), a, b), (mixed.scan(1), b, a)):
        ids = other.extras["id"][other.labels == 3].tolist()
        assert result.extras["id"].tolist() == [*own.extras["id"].tolist(), *ids, *ids, *ids]
    one, two, three = mixed.scan(0).points[40:].split(int((b.labels == 3).sum()))
    turn = lambda copy: float((azimuths(copy) - azimuths(one)).remainder(2 * math.pi)[0])  # noqa: E731
    torch.testing.assert_close(one, b.points[b.labels == 3])
    assert 0 <= turn(two) < 2 * math.pi / 3 <= turn(three) < 4 * math.pi / 3


def test_ratios_are_shares_of_the_pairs_and_draws_do_not_depend_on_them():
    many = PointBatch.pack([scan_of(10, seed, 10 * seed) for seed in range(200)])
    other = PointBatch.pack([scan_of(10, seed, 10 * seed) for seed in range(200, 400)])
    half = polar_mix(many, other, [], math.pi, 0.5, 0.0, torch.Generator().manual_seed(0))
    swapped = sum(bool((scan.extras["id"] >= 2000).any()) for scan in half.scans()[::2])
    assert 70 < swapped < 130
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    polar_mix(many, other, [1], math.pi, 0.0, 0.0, generators[0])
    polar_mix(many, other, [1], 1.0, 1.0, 1.0, generators[1])
    assert torch.equal(torch.rand(3, generator=generators[0]), torch.rand(3, generator=generators[1]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000), st.floats(0.05, 1.0))
def test_cut_mix_takes_a_rectangle_of_b_and_the_rest_of_a(num_a, num_b, seed, area_ratio):
    a = PointBatch.pack([scan_of(num_a, seed), scan_of(5, seed + 1, 100)])
    b = PointBatch.pack([scan_of(num_b, seed + 2, 200), scan_of(5, seed + 3, 300)])
    mixed = cut_mix(a, b, SENSOR, area_ratio, torch.Generator().manual_seed(seed))
    assert_packed(mixed, 2)
    assert_every_column_follows_its_point(mixed)
    # the same draws with the scans the other way round give exactly what is missing
    rest = cut_mix(b, a, SENSOR, area_ratio, torch.Generator().manual_seed(seed))
    everything = [*mixed.extras["id"].tolist(), *rest.extras["id"].tolist()]
    assert sorted(everything) == sorted([*a.extras["id"].tolist(), *b.extras["id"].tolist()])


def test_cut_mix_exchanges_the_share_it_says():
    generator = torch.Generator().manual_seed(0)
    azimuth = (torch.rand(300, 400, generator=generator) * 2 - 1) * math.pi
    down, up = SENSOR.fov_down_rad, SENSOR.fov_up_rad
    inclination = down + (up - down) * torch.rand(300, 400, generator=generator)
    xyz = torch.stack([inclination.cos() * azimuth.cos(), inclination.cos() * azimuth.sin(), inclination.sin()], dim=-1)
    points = torch.cat([xyz, torch.zeros(300, 400, 1)], dim=-1)
    a = PointBatch.pack([PointBatch.of_scan(scan, torch.zeros(400, dtype=torch.int64)) for scan in points])
    b = a.with_labels(torch.ones_like(a.labels))
    mixed = cut_mix(a, b, SENSOR, 0.25, generator)
    share = torch.stack([scan.labels.float().mean() for scan in mixed.scans()])
    assert float(share.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(share.std()) < 0.04  # every rectangle has that area, only its place and shape differ
    taken = mixed.scan(0).select(mixed.scan(0).labels == 1)
    assert float(inclinations(taken.points).max() - inclinations(taken.points).min()) < up - down


def test_all_of_the_area_is_the_other_scan_whatever_lies_outside_the_field_of_view():
    a, b = scan_of(30, 0), scan_of(20, 1, 100)
    mixed = cut_mix(a, b, SENSOR, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.points, b.points)


def test_unequal_numbers_of_scans_are_refused():
    two = PointBatch.pack([scan_of(3, 0), scan_of(3, 1)])
    with pytest.raises(ValueError, match="as many scans as donors and rows of angles, got 2, 1 and 1"):
        paste(two, scan_of(3, 2), [1], rad(0.0)[None])
    with pytest.raises(ValueError, match="as many scans in a as in b, got 2 and 1"):
        polar_mix(two, scan_of(3, 2), [1], 1.0, 1.0, 1.0, torch.Generator())

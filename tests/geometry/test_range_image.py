import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.range_image import image_channels, pixel_labels, project
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(4, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


def random_batch(seed: int, sizes: list[int]) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    scans = [
        PointBatch.of_scan(
            torch.randn(size, 4, generator=generator) * torch.tensor([15.0, 15.0, 4.0, 1.0]),
            torch.randint(0, 16, (size,), generator=generator),
        )
        for size in sizes
    ]
    return PointBatch.pack(scans)


def at(azimuth_deg: float, inclination_deg: float, range_m: float) -> list[float]:
    azimuth, inclination = math.radians(azimuth_deg), math.radians(inclination_deg)
    horizontal = range_m * math.cos(inclination)
    return [horizontal * math.cos(azimuth), horizontal * math.sin(azimuth), range_m * math.sin(inclination), 0.5]


def slow_project(batch: PointBatch, height_px: int, width_px: int) -> dict[tuple[int, int, int], int]:
    """The published projection, point by point: far points are written first, so the nearest stays."""
    points = batch.points.double().numpy()
    up, down = SENSOR.fov_up_rad, SENSOR.fov_down_rad
    shown: dict[tuple[int, int, int], int] = {}
    for index in np.argsort(-np.linalg.norm(points[:, :3], axis=1), kind="stable"):
        x, y, z = points[index, :3]
        yaw, pitch = -math.atan2(y, x), math.asin(z / math.sqrt(x * x + y * y + z * z))
        u = min(max(math.floor(0.5 * (yaw / math.pi + 1) * width_px), 0), width_px - 1)
        v = min(max(math.floor((1 - (pitch + abs(down)) / (up - down)) * height_px), 0), height_px - 1)
        shown[int(batch.scan_idx[index]), v, u] = int(index)
    return shown


def test_pixels_by_hand():
    angles = [(0.1, 5), (-0.1, 5), (179, -5), (-179, -15), (45, -25), (0.1, 80), (0.1, -80)]
    batch = PointBatch.of_scan(torch.tensor([at(*angle, 10.0) for angle in angles]))
    images = project(batch, SENSOR, 4, 8)
    rows_and_columns = [divmod(int(images.pixel[cell]), 8) for cell in images.point_cell]
    assert rows_and_columns == [(0, 3), (0, 4), (1, 0), (2, 7), (3, 3), (0, 3), (3, 3)]


def test_the_nearest_point_wins_and_ties_go_to_the_first():
    points = torch.tensor([at(10, 0, 20.0), at(10, 0, 5.0), at(-100, 0, 7.0), at(10, 0, 5.0)])
    batch = PointBatch.of_scan(points, torch.tensor([1, 2, 3, 4]))
    images = project(batch, SENSOR, 4, 8)
    assert sorted(images.nearest.tolist()) == [1, 2]
    assert sorted(pixel_labels(batch, images).tolist()) == [2, 3]
    assert images.point_cell[0] == images.point_cell[1] == images.point_cell[3] != images.point_cell[2]


def test_an_unlabelled_point_in_front_hides_a_labelled_one():
    batch = PointBatch.of_scan(torch.tensor([at(10, 0, 20.0), at(10, 0, 5.0)]), torch.tensor([1, IGNORE]))
    assert pixel_labels(batch, project(batch, SENSOR, 4, 8)).tolist() == [IGNORE]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 80), min_size=1, max_size=3), st.sampled_from([1, 5, 8]))
def test_projection_agrees_with_the_published_formula(seed, sizes, height_px):
    batch = random_batch(seed, sizes)
    images = project(batch, SENSOR, height_px, 12)
    found = {
        (int(pixel) // 12 // height_px, int(pixel) // 12 % height_px, int(pixel) % 12): int(index)
        for pixel, index in zip(images.pixel, images.nearest, strict=True)
    }
    assert found == slow_project(batch, height_px, 12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 80), min_size=1, max_size=3))
def test_every_point_has_the_pixel_of_a_point_no_farther_of_its_own_scan(seed, sizes):
    batch = random_batch(seed, sizes)
    images = project(batch, SENSOR, 4, 12)
    shown = images.nearest[images.point_cell]
    range_m = batch.points[:, :3].norm(dim=1)
    assert torch.equal(batch.scan_idx[shown], batch.scan_idx)
    assert torch.all(range_m[shown] <= range_m)
    assert torch.all(images.pixel.diff() > 0)
    assert torch.equal(images.point_cell[images.nearest], torch.arange(len(images.pixel)))


def test_the_painted_image_shows_range_xyz_and_intensity_at_occupied_pixels_only():
    point = at(-100, 0, 7.0)
    batch = PointBatch.pack([PointBatch.of_scan(torch.zeros(0, 4)), PointBatch.of_scan(torch.tensor([point]))])
    images = project(batch, SENSOR, 4, 8)
    painted = images.paint(image_channels(batch, images))
    assert painted.shape == (2, 5, 4, 8)
    assert painted[1, :, 1, 6].tolist() == pytest.approx([7.0, *point])
    assert int(painted.ne(0).any(dim=1).sum()) == 1


def test_gather_undoes_paint():
    batch = random_batch(0, [50, 0, 30])
    images = project(batch, SENSOR, 8, 16)
    values = torch.randn(len(images.pixel), 3)
    assert torch.equal(images.gather(images.paint(values)), values)


def test_the_gradient_of_gather_is_that_of_indexing():
    images = project(random_batch(0, [50, 0, 30]), SENSOR, 8, 16)
    ours, plain = torch.randn(2, 3, 3, 8, 16, dtype=torch.float64).unbind()
    ours.requires_grad_(), plain.requires_grad_()
    weights = torch.randn(len(images.pixel), 3, dtype=torch.float64)
    (images.gather(ours) * weights).sum().backward()
    (plain.permute(0, 2, 3, 1).reshape(-1, 3)[images.pixel] * weights).sum().backward()
    assert torch.equal(ours.grad, plain.grad)
    assert ours.grad.ne(0).any()


def test_a_point_at_the_origin_and_no_points_are_legal():
    origin = PointBatch.of_scan(torch.zeros(1, 4))
    images = project(origin, SENSOR, 4, 8)
    assert torch.equal(image_channels(origin, images), torch.zeros(1, 5))
    nothing = project(PointBatch.of_scan(torch.zeros(0, 4)), SENSOR, 4, 8)
    assert len(nothing.pixel) == len(nothing.point_cell) == 0

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.datasets.augment import augment
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.geometry.pose import from_quaternion
from ray_lidarseg.geometry.rays import joined, lidar_rays, pixel_rays
from ray_lidarseg.recipe.schema import Augment
from ray_lidarseg.sample import PointBatch

STILL = {"flip_ratio": 0.0, "rotation_deg": (0.0, 0.0), "scale": (1.0, 1.0), "translation_std_m": 0.0}


def batch(num_scans: int = 1) -> PointBatch:
    generator = torch.Generator().manual_seed(3)
    scans = []
    for _ in range(num_scans):
        points = torch.rand(20, 4, generator=generator) * 10
        scans.append(PointBatch.of_scan(points, torch.arange(20), {"feature": points[:, :2].clone()}))
    return PointBatch.pack(scans)


def run(spec: dict, seed: int = 0, num_scans: int = 1) -> tuple[PointBatch, PointBatch]:
    before = batch(num_scans)
    return before, augment(before, Augment(**{**STILL, **spec}), torch.Generator().manual_seed(seed))


def test_nothing_asked_nothing_moved() -> None:
    before, after = run({})
    torch.testing.assert_close(after.points, before.points)


def test_flipping_with_certainty_negates_x_and_y() -> None:
    before, after = run({"flip_ratio": 1.0})
    torch.testing.assert_close(after.points, before.points * torch.tensor([-1.0, -1.0, 1.0, 1.0]))


def test_a_quarter_turn_goes_counter_clockwise() -> None:
    before, after = run({"rotation_deg": (90.0, 90.0)})
    x, y, z, intensity = before.points.T
    torch.testing.assert_close(after.points, torch.stack([-y, x, z, intensity], dim=1))


def test_scale_multiplies_metres_and_not_intensity() -> None:
    before, after = run({"scale": (2.0, 2.0)})
    torch.testing.assert_close(after.points, before.points * torch.tensor([2.0, 2.0, 2.0, 1.0]))


def test_translation_is_one_shift_a_scan_of_the_asked_spread() -> None:
    before, after = run({"translation_std_m": 0.5}, num_scans=400)
    shift = (after.points - before.points)[:, :3].reshape(400, 20, 3)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-5, rtol=0)
    assert float(shift[:, 0].std()) == pytest.approx(0.5, rel=0.1)


def test_draws_stay_in_their_intervals_and_differ_between_scans() -> None:
    before, after = run({"rotation_deg": (-45.0, 45.0), "scale": (0.95, 1.05)}, num_scans=200)
    turn = torch.atan2(after.points[:, 1], after.points[:, 0]) - torch.atan2(before.points[:, 1], before.points[:, 0])
    ratio = after.points[:, :3].norm(dim=1) / before.points[:, :3].norm(dim=1)
    turn = torch.remainder(turn + math.pi, 2 * math.pi) - math.pi
    assert turn.abs().max() <= math.pi / 4 + 1e-4
    assert turn.max() > 0.6
    assert turn.min() < -0.6
    assert 0.95 - 1e-4 <= ratio.min() < 0.96
    assert 1.04 < ratio.max() <= 1.05 + 1e-4


def test_one_product_a_scan_is_what_a_point_by_point_product_gives() -> None:
    """The slow twin: flip, turn, scale and shift of each point, with the draws of its scan."""
    before = batch(3)
    spec = Augment(rotation_deg=(-90, 90), scale=(0.9, 1.1), translation_std_m=0.3)
    after = augment(before, spec, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    uniform, normal = torch.rand(3, 4, generator=generator).tolist(), torch.randn(3, 3, generator=generator).tolist()
    for row in range(len(before)):
        (flip_x, flip_y, turn, size), shift = uniform[int(before.scan_idx[row])], normal[int(before.scan_idx[row])]
        x, y, z, intensity = before.points[row].tolist()
        x, y = (-x if flip_x < spec.flip_ratio else x), (-y if flip_y < spec.flip_ratio else y)
        angle, scale = math.radians(-90 + 180 * turn), 0.9 + 0.2 * size
        turned = (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y, z)
        expected = [scale * part + 0.3 * step for part, step in zip(turned, shift, strict=True)]
        assert after.points[row, :3].tolist() == pytest.approx(expected, abs=1e-4)
        assert float(after.points[row, 3]) == pytest.approx(intensity, abs=0)


def test_an_empty_scan_among_others_keeps_its_place() -> None:
    full = batch(2)
    gap = PointBatch(full.points, full.scan_idx * 2, full.labels, 3, full.extras)
    after = augment(gap, Augment(**{**STILL, "scale": (2.0, 2.0)}), torch.Generator())
    torch.testing.assert_close(after.points[:, :3], full.points[:, :3] * 2)
    assert after.num_scans == 3


def test_labels_extras_and_input_stay() -> None:
    before, after = run({"rotation_deg": (30.0, 30.0), "translation_std_m": 1.0}, num_scans=2)
    assert after.num_scans == 2
    torch.testing.assert_close(after.labels, before.labels)
    torch.testing.assert_close(after.extras["feature"], before.extras["feature"])
    torch.testing.assert_close(before.points, batch(2).points)


def test_the_generator_decides() -> None:
    spec = {"rotation_deg": (-45.0, 45.0)}
    torch.testing.assert_close(run(spec, seed=5)[1].points, run(spec, seed=5)[1].points)
    assert not torch.equal(run(spec, seed=5)[1].points, run(spec, seed=6)[1].points)


def test_no_scans_is_legal() -> None:
    empty = PointBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)
    assert len(augment(empty, Augment(), torch.Generator())) == 0


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31),
    st.floats(0.0, 1.0),
    st.tuples(st.floats(-180, 180), st.floats(-180, 180)),
    st.floats(0.5, 2.0),
    st.floats(0.0, 2.0),
)
def test_returns_stay_on_their_rays_and_points_on_their_pixels_rays(seed, flip, rotation, scale, std) -> None:
    """Whatever is drawn: within 1 mm, before and after, for a LiDAR's beams and for the rays of a camera's pixels."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-30, 30, (40, 4)).astype(np.float32)
    points[:, :2] += np.sign(points[:, :2]) * 2
    cam_SE3_lidar = from_quaternion([0.5, 0.5, -0.5, 0.5], generator.normal(0, 1, 3))
    intrinsics = np.array([[1266.0, 0, 816.3], [0, 1266.0, 491.5], [0, 0, 1]])
    seen = project(points, cam_SE3_lidar, intrinsics, 1600, 900)
    front = np.flatnonzero(seen.depth_m > 1)
    beams = lidar_rays(points, (1.0, 50.0))
    pixels = pixel_rays(seen.pixels[front], intrinsics, cam_SE3_lidar, (1.0, 50.0))
    before = replace(PointBatch.of_scan(torch.from_numpy(points)), rays=joined([beams, pixels]))
    spec = {"flip_ratio": flip, "rotation_deg": tuple(sorted(rotation)), "scale": (scale, scale)}
    after = augment(before, Augment(**{**STILL, **spec, "translation_std_m": std}), torch.Generator().manual_seed(seed))
    for batch in (before, after):
        xyz, rays = batch.points[:, :3].double(), batch.rays
        origins, directions = rays.origins.double(), rays.directions.double()
        ends = origins[:40] + rays.depth_m[:40, None].double() * directions[:40]
        assert (ends - xyz).norm(dim=1).max() < 1e-3
        offset = xyz[torch.from_numpy(front)] - origins[40:]
        along = (offset * directions[40:]).sum(1)
        assert (along > 0).all()
        away = (offset - along[:, None] * directions[40:]).norm(dim=1)
        assert (away < 1e-3).all()
    torch.testing.assert_close(after.rays.far_m, before.rays.far_m * scale)
    assert torch.equal(after.rays.labels, before.rays.labels)

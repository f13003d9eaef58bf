"""Slabs one can compute by hand, the packed renderer against the dense one, gradients, and rays that meet nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ray_lidarseg.geometry.rendering import Field, Rendered, render_dense, render_packed
from ray_lidarseg.geometry.voxelize import CartesianGrid, CylinderGrid, find_voxels
from ray_lidarseg.sample import RayBatch
from ray_lidarseg.sparse.volume import Volume
from ray_lidarseg.types import IGNORE

RENDERERS = pytest.mark.parametrize("render", [render_packed, render_dense], ids=["packed", "dense"])
CUBES = CartesianGrid((-8.0, -8.0, -8.0), 1.0, (16, 16, 16))
CYLINDER = CylinderGrid(radius_m=9.0, height_m=(-3.0, 3.0), shape=(10, 37, 7))


def rays_of(origins, directions, near_m: float = 0.0, far_m: float = 10.0, scan_idx=None, num_scans: int = 1):
    origins, directions = torch.as_tensor(origins), functional.normalize(torch.as_tensor(directions), dim=1)
    ones, whole = origins.new_ones(len(origins)), torch.zeros(len(origins), dtype=torch.int64)
    scan_idx = whole if scan_idx is None else scan_idx
    unknown = torch.full_like(whole, IGNORE)
    return RayBatch(origins, directions, scan_idx, near_m * ones, far_m * ones, num_scans, ones * math.nan, unknown)


class Slabs:
    """Layers across the x axis: (begin, end, density, class of two)."""

    def __init__(self, *slabs: tuple[float, float, float, int]) -> None:
        self.slabs = slabs

    def touches(self, points, scan_idx):
        return torch.stack([(points[:, 0] >= a) & (points[:, 0] < b) for a, b, _, _ in self.slabs]).any(0)

    def __call__(self, points, scan_idx):
        density, scores = torch.zeros(len(points)), torch.zeros(len(points), 2)
        for a, b, sigma, kind in self.slabs:
            inside = (points[:, 0] >= a) & (points[:, 0] < b)
            density[inside], scores[inside, kind] = sigma, 1.0
        return density, scores


class Learned:
    """Density softplus(first channel) times coverage, scores the others: trilinear values of cells."""

    def __init__(self, volume: Volume, values: torch.Tensor) -> None:
        self.volume, self.values = volume, values

    def touches(self, points, scan_idx):
        return self.volume.touches(points, scan_idx)

    def __call__(self, points, scan_idx):
        corners = self.volume.corners(points, scan_idx)
        found = self.volume.sample(self.values, points, scan_idx)
        return functional.softplus(found[:, 0]) * corners.weights.sum(1), found[:, 1:]


def learned(grid, seed: int, num_cells: int, num_scans: int = 2, dtype=torch.float32) -> Learned:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(num_cells, 3, generator=generator) * 12 - 6
    scan_idx = torch.randint(0, num_scans, (num_cells,), generator=generator)
    volume = Volume(find_voxels(grid.cells(points), scan_idx).keys, grid, num_scans)
    values = torch.randn(len(volume.keys), 4, generator=generator, dtype=dtype) * 2
    return Learned(volume, values)


def some_rays(seed: int, count: int, num_scans: int = 2, dtype=torch.float32) -> RayBatch:
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(count, 3, generator=generator, dtype=dtype)
    directions = torch.randn(count, 3, generator=generator, dtype=dtype)
    scan_idx = torch.randint(0, num_scans, (count,), generator=generator).sort().values
    return rays_of(origins, directions, 0.5, 9.0, scan_idx, num_scans)


def same(one: Rendered, other: Rendered) -> None:
    for name in ("semantics", "depth_m", "opacity"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)


@RENDERERS
def test_an_opaque_slab_is_seen_where_it_begins(render):
    found = render(rays_of([[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]), Slabs((4.0, 5.0, 1e4, 1)), 0.1)
    assert found.opacity.tolist() == [1.0]
    assert found.depth_m.item() == pytest.approx(4.05, abs=1e-3)
    torch.testing.assert_close(found.semantics, torch.tensor([[0.0, 1.0]]))
    assert found.entropy.item() == pytest.approx(0.8400, abs=1e-3)  # softmax(0, 1) = 0.269, 0.731


@RENDERERS
def test_of_two_half_opaque_slabs_the_second_gets_a_quarter(render):
    half = math.log(2.0)  # one metre lets half of the light through
    slabs = Slabs((2.0, 3.0, half, 0), (6.0, 7.0, half, 1))
    found = render(rays_of([[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]), slabs, 1.0)
    torch.testing.assert_close(found.semantics, torch.tensor([[0.5, 0.25]]))
    assert found.opacity.item() == pytest.approx(0.75)
    assert found.depth_m.item() == pytest.approx(0.5 * 2.5 + 0.25 * 6.5 + 0.25 * 10.0)


@RENDERERS
def test_looking_begins_at_near_and_stops_at_far(render):
    slabs = Slabs((1.0, 2.0, 5.0, 0), (4.0, 5.0, 1e4, 1), (8.0, 9.0, 1e4, 0))
    ray = ([[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]])
    behind = render(rays_of(*ray, near_m=3.0, far_m=7.0), slabs, 0.1)
    torch.testing.assert_close(behind.semantics, torch.tensor([[0.0, 1.0]]))
    short = render(rays_of(*ray, near_m=2.5, far_m=3.5), slabs, 0.1)
    assert (short.opacity.item(), short.depth_m.item()) == (0.0, 3.5)


@RENDERERS
def test_the_offset_moves_the_samples_of_its_ray(render):
    slabs = Slabs((2.0, 2.3, 1e4, 1))
    rays = rays_of([[0.0, 0.0, 0.0]] * 2, [[1.0, 0.0, 0.0]] * 2)
    found = render(rays, slabs, 1.0, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(found.opacity, torch.tensor([1.0, 0.0]))
    assert found.depth_m[0].item() == pytest.approx(2.1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 40), st.booleans(), st.booleans())
def test_packed_equals_dense(seed, num_cells, num_rays, is_cylinder, with_offset):
    """Also without cells, without rays, and across the seam behind the x axis."""
    field = learned(CYLINDER if is_cylinder else CUBES, seed, num_cells)
    rays = some_rays(seed + 1, num_rays)
    offset = torch.rand(num_rays, generator=torch.Generator().manual_seed(seed)) if with_offset else None
    packed, dense = (render(rays, field, 0.3, offset) for render in (render_packed, render_dense))
    same(packed, dense)
    assert packed.num_samples <= dense.num_samples == num_rays * 29


def test_rays_cross_the_seam_of_a_cylinder():
    """A wall behind the sensor, seen along y: without the wrap there would be a gap of one cell at y = 0."""
    y, z = torch.meshgrid(torch.linspace(-2, 2, 200), torch.linspace(-1.5, 1.5, 20), indexing="ij")
    points = torch.stack([torch.full_like(y, -5.5), y, z], -1).reshape(-1, 3)
    keys = find_voxels(CYLINDER.cells(points), torch.zeros(len(points), dtype=torch.int64)).keys
    values = torch.cat([torch.full((len(keys), 1), 50.0), torch.ones(len(keys), 1)], 1)
    height = torch.linspace(-0.05, 0.05, 11)
    rays = rays_of(torch.stack([torch.zeros(11), height, torch.zeros(11)], 1), [[-1.0, 0.0, 0.0]] * 11)
    for render in (render_packed, render_dense):
        found = render(rays, Learned(Volume(keys, CYLINDER, 1), values), 0.05)
        assert (found.opacity > 0.99).all()
        assert (found.depth_m - found.depth_m[0]).abs().max() < 0.05


@RENDERERS
def test_gradients_are_right(render):
    field = learned(CUBES, 3, 400, dtype=torch.float64)
    rays = some_rays(4, 6, dtype=torch.float64)
    chosen = torch.arange(0, len(field.values), 8)

    def values_of(part: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = render(rays, Learned(field.volume, field.values.index_copy(0, chosen, part)), 0.5)
        return found.semantics, found.depth_m, found.opacity

    assert torch.autograd.gradcheck(values_of, field.values[chosen].clone().requires_grad_())


@RENDERERS
def test_semantics_need_not_reach_the_density(render):
    field = learned(CUBES, 3, 2000)
    field.values.requires_grad_()
    found = render(some_rays(4, 30), field, 0.3, stop_density=True)
    (of_semantics,) = torch.autograd.grad(found.semantics.square().sum(), field.values, retain_graph=True)
    (of_depth,) = torch.autograd.grad(found.depth_m.sum(), field.values)
    assert not of_semantics[:, 0].any()
    assert of_semantics[:, 1:].any()
    assert of_depth[:, 0].any()
    torch.testing.assert_close(found.semantics, render(some_rays(4, 30), field, 0.3).semantics)


@RENDERERS
@pytest.mark.parametrize("num_cells", [0, 200])
def test_rays_that_all_miss_give_zeros_and_a_zero_gradient(render, num_cells):
    field = learned(CUBES, 3, num_cells)
    field.values.requires_grad_()
    found = render(rays_of([[0.0, 0.0, 30.0]] * 4, [[0.0, 0.0, 1.0]] * 4), field, 0.5)
    assert found.semantics.tolist() == [[0.0] * 3] * 4
    assert found.opacity.tolist() == [0.0] * 4
    assert found.depth_m.tolist() == [10.0] * 4
    torch.testing.assert_close(found.entropy, torch.ones(4))
    (found.semantics.sum() + found.depth_m.sum() + found.opacity.sum() + found.entropy.sum()).backward()
    assert field.values.grad.isfinite().all()
    assert not field.values.grad.any()


@RENDERERS
def test_half_precision_fields_are_composited_in_float32(render):
    class Half(Learned):
        def __call__(self, points, scan_idx):
            density, scores = super().__call__(points, scan_idx)
            return density.bfloat16(), scores.bfloat16()

    full = learned(CUBES, 5, 2000)
    rays = some_rays(6, 50)
    with torch.autocast("cpu", torch.bfloat16):
        found = render(rays, Half(full.volume, full.values), 0.3)
    assert found.semantics.dtype == found.depth_m.dtype == torch.float32
    expected = render(rays, full, 0.3)
    torch.testing.assert_close(found.depth_m, expected.depth_m, atol=0.05, rtol=0.02)
    torch.testing.assert_close(found.opacity, expected.opacity, atol=0.02, rtol=0.02)


def test_a_long_batch_loses_no_precision():
    """The running sum over all rays reaches 1e6; the last ray must still see its thin slab."""
    slabs = Slabs((4.0, 5.0, 1e3, 1), (7.0, 8.0, 0.01, 0))
    count = 2000
    origins = [[0.0, 0.0, 0.0]] * count + [[6.0, 0.0, 0.0]]
    rays = rays_of(origins, [[1.0, 0.0, 0.0]] * (count + 1), far_m=6.0)
    found = render_packed(rays, slabs, 0.1)
    assert found.opacity[-1].item() == pytest.approx(1 - math.exp(-0.01), rel=1e-4)


def test_what_is_asked_of_a_field_is_written_down():
    field: Field = learned(CUBES, 0, 10)
    assert field.touches(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)).dtype == torch.bool

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.interpolation import Corners, trilinear


def _dense_geometry(side: int, num_scans: int = 1) -> VoxelGeometry:
    axis = torch.arange(side)
    return VoxelGeometry.of_coords(torch.cartesian_prod(torch.arange(num_scans), axis, axis, axis))


def _plain(geometry, level, position, scan, x):
    """The definition, voxel by voxel: the product over the axes of 1 - distance to its centre, where positive."""
    total = x.new_zeros(x.shape[1])
    for row, (other, *cell) in enumerate(geometry.coords(level).tolist()):
        if other == scan:
            distances = (position / 2**level - 0.5 - torch.tensor(cell)).abs()
            total = total + (1 - distances).clamp_min(0).prod() * x[row]
    return total


@settings(deadline=None, max_examples=25)
@given(st.sets(st.tuples(st.integers(0, 1), *[st.integers(0, 4)] * 3), min_size=1, max_size=40), st.integers(0, 2))
def test_equals_the_definition_voxel_by_voxel(coords, level):
    geometry = VoxelGeometry.of_coords(torch.tensor(sorted(coords)))
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(20, 3, generator=generator) * 5
    scan_idx = torch.arange(20) // 10
    x = torch.randn(geometry.num_voxels(level), 3, generator=generator)
    found = trilinear(geometry, level, positions, scan_idx).interpolate(x)
    expected = [_plain(geometry, level, *pair, x) for pair in zip(positions, scan_idx.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_a_linear_function_is_reproduced_between_centres():
    geometry = _dense_geometry(8)
    slope = torch.tensor([[1.0], [-2.0], [0.5]])
    for level in (0, 1):
        centres = (geometry.coords(level)[:, 1:] + 0.5) * 2**level
        positions = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) * 6 + 1  # a whole cell from the rim
        corners = trilinear(geometry, level, positions, torch.zeros(30, dtype=torch.int64))
        torch.testing.assert_close(corners.interpolate(centres @ slope), positions @ slope, atol=1e-4, rtol=1e-4)


def test_weights_of_absent_voxels_are_missing_until_normalised():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 1, 1, 1]]))
    positions = torch.tensor([[1.75, 1.5, 1.5], [1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    corners = trilinear(geometry, 0, positions, torch.zeros(3, dtype=torch.int64))
    x = torch.tensor([[4.0]])
    assert corners.interpolate(x).flatten().tolist() == [3.0, 0.5, 0.0]
    assert corners.normalised().interpolate(x).flatten().tolist() == [4.0, 4.0, 0.0]


def test_neighbours_below_zero_are_not_those_of_another_row_or_scan():
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 65534], [0, 0, 1, 65534], [0, 65534, 65534, 65534], [1, 0, 0, 0]])
    geometry = VoxelGeometry.of_coords(coords)
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    corners = trilinear(geometry, 0, positions, torch.tensor([0, 1]))
    assert (corners.weights > 0).sum(1).tolist() == [1, 1]
    assert corners.interpolate(torch.arange(5.0).unsqueeze(1)).flatten().tolist() == [0.0, 4.0 / 8]


def test_gradient_is_the_transposed_sum():
    corners = Corners(torch.tensor([[0] * 7 + [1], [1] * 8]), torch.full((2, 8), 0.125, dtype=torch.float64))
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(corners.interpolate, (x,))
    corners.interpolate(x).sum().backward()
    torch.testing.assert_close(x.grad[:, 0], torch.tensor([0.875, 1.125, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("num_voxels", [0, 1])
def test_no_points_give_no_rows_and_keep_the_graph(num_voxels):
    geometry = VoxelGeometry.of_coords(torch.zeros(num_voxels, 4, dtype=torch.int32))
    corners = trilinear(geometry, 1, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).normalised()
    x = torch.ones(num_voxels, 2, requires_grad=True)
    out = corners.interpolate(x)
    out.sum().backward()
    assert out.shape == (0, 2)
    assert x.grad is not None

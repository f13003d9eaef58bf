"""Features between cell centres, on cubes and on a cylinder: against the definition, cell by cell."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.voxelize import CartesianGrid, CylinderGrid, find_voxels
from ray_lidarseg.sparse import volume as module
from ray_lidarseg.sparse.volume import Volume, blend

CUBES = CartesianGrid((-4.0, -4.0, -4.0), 1.0, (8, 8, 8))
CYLINDER = CylinderGrid(radius_m=7.0, height_m=(-3.0, 2.0), shape=(8, 13, 6))  # steps of 1 m, 30 degrees, 1 m


def of_cells(grid, cells: list[tuple[int, ...]], num_scans: int = 1) -> Volume:
    rows = torch.tensor(cells, dtype=torch.int32).reshape(-1, 4)
    return Volume(find_voxels(rows[:, 1:], rows[:, 0]).keys, grid, num_scans)


def everywhere(grid) -> list[tuple[int, ...]]:
    return [tuple(row) for row in torch.cartesian_prod(*(torch.arange(n) for n in (1, *grid.shape))).tolist()]


def plain(volume: Volume, values: torch.Tensor, point: torch.Tensor, scan: int) -> torch.Tensor:
    """The definition: the product over the axes of 1 - distance to the cell's centre in cells, where positive."""
    position = volume.grid.positions(point[None])[0] - 0.5
    total = values.new_zeros(values.shape[1])
    for row, (other, *cell) in enumerate(module.unpack_coords(volume.keys).tolist()):
        squashed = any(not first <= c < end for c, (first, end) in zip(cell, volume.grid.faithful, strict=True))
        if other != scan or squashed:
            continue
        weight = 1.0
        for axis, period in enumerate(volume.grid.periods):
            distance = abs(float(position[axis]) - cell[axis])
            distance = min(distance, abs(period - distance)) if period else distance
            weight *= max(0.0, 1 - distance)
        total = total + weight * values[row]
    return total


def random_case(grid, cells, seed: int = 0, count: int = 30):
    generator = torch.Generator().manual_seed(seed)
    volume = of_cells(grid, sorted(cells), 2)
    values = torch.randn(len(volume.keys), 3, generator=generator)
    points = torch.rand(count, 3, generator=generator) * 16 - 8
    scan_idx = torch.randint(0, 2, (count,), generator=generator)
    return volume, values, points, scan_idx


@pytest.mark.parametrize("grid", [CUBES, CYLINDER], ids=["cubes", "cylinder"])
@settings(deadline=None, max_examples=25)
@given(cells=st.sets(st.tuples(st.integers(0, 1), *[st.integers(0, 5)] * 3), max_size=60))
def test_equals_the_definition_and_never_misses_a_cell(grid, cells):
    volume, values, points, scan_idx = random_case(grid, cells)
    found = volume.sample(values, points, scan_idx)
    pairs = zip(points, scan_idx.tolist(), strict=True)
    expected = torch.stack([plain(volume, values, point, scan) for point, scan in pairs])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    is_there = volume.corners(points, scan_idx).weights.sum(1) > 0
    assert not (is_there & ~volume.touches(points, scan_idx)).any()


def test_a_centre_has_its_own_feature_and_half_way_is_the_mean():
    volume = of_cells(CUBES, [(0, 3, 3, 3), (0, 4, 3, 3)])
    values = torch.tensor([[2.0], [6.0]])
    places = torch.tensor(
        [[-0.5, -0.5, -0.5], [0.5, -0.5, -0.5], [0.0, -0.5, -0.5], [1.0, -0.5, -0.5], [2, -0.5, -0.5]]
    )
    found = volume.sample(values, places, torch.zeros(5, dtype=torch.int64))
    assert found.flatten().tolist() == [2.0, 6.0, 4.0, 3.0, 0.0]  # no scaling up beside the surface


def test_the_azimuth_wraps_behind_the_x_axis():
    volume = of_cells(CYLINDER, [(0, 4, 0, 2), (0, 4, 11, 2)])  # the first and the last real sector
    values = torch.tensor([[1.0], [3.0]])
    behind = torch.tensor([[-4.5, 0.0, -0.5], [-4.5, -1e-3, -0.5], [-4.5, 1e-3, -0.5]])
    found = volume.sample(values, behind, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found, torch.full((3, 1), 2.0), atol=1e-3, rtol=0.0)
    assert volume.touches(behind, torch.zeros(3, dtype=torch.int64)).all()


def test_border_cells_with_points_from_outside_are_left_out():
    beyond = torch.tensor([[20.0, 1.0, -0.5], [3.0, 1.0, -9.0], [3.0, 1.0, 9.0], [3.0, 1.0, -0.5]])
    voxels = find_voxels(CYLINDER.cells(beyond), torch.zeros(4, dtype=torch.int64))
    volume = Volume(voxels.keys, CYLINDER, 1)
    values = torch.ones(len(voxels), 1)
    polar = CYLINDER.centres(module.unpack_coords(voxels.keys)[:, 1:])
    centres = torch.stack([polar[:, 0] * polar[:, 1].cos(), polar[:, 0] * polar[:, 1].sin(), polar[:, 2]], 1)
    found = volume.sample(values, centres, torch.zeros(len(voxels), dtype=torch.int64)).flatten()
    is_real = [any(math.isclose(z, -0.5) for z in (row[2],)) and row[0] < 7.0 for row in polar.tolist()]
    torch.testing.assert_close(found, torch.tensor(is_real, dtype=torch.float32), atol=1e-4, rtol=0.0)
    assert sum(is_real) == 1


def test_scans_do_not_see_each_other():
    volume = of_cells(CUBES, [(0, 3, 3, 3), (1, 4, 4, 4)], 2)
    place = torch.tensor([[-0.5, -0.5, -0.5]] * 2)
    found = volume.sample(torch.tensor([[1.0], [5.0]]), place, torch.tensor([0, 1]))
    assert found.flatten().tolist() == [1.0, 0.0]


def test_a_large_grid_shares_slots_and_still_never_misses(monkeypatch):
    monkeypatch.setattr(module, "_MAX_DIRECT", 0)
    grid = CartesianGrid.centred(50.0, 0.05, 16)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(500, 3, generator=generator) * 80 - 40
    voxels = find_voxels(grid.cells(points), torch.zeros(500, dtype=torch.int64))
    volume = Volume(voxels.keys, grid, 1)
    near = points + torch.rand(500, 3, generator=generator) * 0.05
    far = torch.rand(200_000, 3, generator=generator) * 80 - 40
    first = lambda places: torch.zeros(len(places), dtype=torch.int64)  # noqa: E731
    is_there = volume.corners(near, first(near)).weights.sum(1) > 0
    assert is_there.float().mean() > 0.5
    assert volume.touches(near, first(near))[is_there].all()
    wrong = volume.touches(far, first(far)) & (volume.corners(far, first(far)).weights.sum(1) == 0)
    assert 0 < wrong.float().mean() < 1 / 32  # 1 in 64 or fewer


@pytest.mark.parametrize("grid", [CUBES, CYLINDER], ids=["cubes", "cylinder"])
def test_gradients_to_the_values_are_right(grid):
    volume, values, points, scan_idx = random_case(grid, everywhere(grid)[::7], count=12)
    values = values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: volume.sample(v, points.double(), scan_idx), values)


@pytest.mark.parametrize("grid", [CUBES, CYLINDER], ids=["cubes", "cylinder"])
def test_without_cells_everything_is_empty_and_a_gradient_exists(grid):
    volume = of_cells(grid, [])
    values = torch.zeros(0, 2, requires_grad=True)
    points, scan_idx = torch.rand(5, 3), torch.zeros(5, dtype=torch.int64)
    found = volume.sample(values, points, scan_idx)
    assert found.tolist() == [[0.0, 0.0]] * 5
    assert not volume.touches(points, scan_idx).any()
    found.sum().backward()
    assert values.grad.shape == (0, 2)


def test_half_precision_is_blended_in_float32():
    volume = of_cells(CUBES, [(0, 3, 3, 3)])
    corners = volume.corners(torch.tensor([[-0.5, -0.5, -0.5]]), torch.zeros(1, dtype=torch.int64))
    found = blend(torch.tensor([[1.5]], dtype=torch.bfloat16), corners)
    assert found.dtype == torch.float32
    assert found.item() == 1.5


@pytest.mark.parametrize("grid", [CUBES, CYLINDER], ids=["cubes", "cylinder"])
def test_a_place_is_held_where_a_cell_would_be_read(grid):
    """Cell by cell: a point in it is held where one that lies there is seen at its own cell's centre."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400, 3, generator=generator) * 18 - 9
    volume = of_cells(grid, everywhere(grid))
    position = grid.positions(points)
    cell = position.floor()
    for axis, period in enumerate(grid.periods):
        if period:
            cell[:, axis] %= period
    faithful = torch.tensor(grid.faithful)
    expected = ((cell >= faithful[:, 0]) & (cell < faithful[:, 1])).all(1)
    assert torch.equal(volume.holds(points), expected)
    assert 0 < int(expected.sum()) < len(points)
    inside = (grid.cells(points) == cell.long()).all(1)  # `cells` leaves alone what lies in its cell
    assert inside[expected].all()

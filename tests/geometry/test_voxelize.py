import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.voxelize import (
    CartesianGrid,
    CylinderGrid,
    find_voxels,
    pack_coords,
    segment_sum,
    unpack_coords,
)
from ray_lidarseg.types import IGNORE


def _cells(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)


def test_pack_round_trips_at_the_limits_and_sorts_lexicographically():
    rows = torch.tensor([[0, 0, 0, 0], [0, 0, 65535, 65535], [0, 1, 0, 0], [32767, 65535, 65535, 65535]])
    keys = pack_coords(rows)
    assert keys.tolist() == sorted(keys.tolist())
    assert torch.equal(unpack_coords(keys), rows.to(torch.int32))


@pytest.mark.parametrize("row", [[0, -1, 0, 0], [0, 0, 65536, 0], [32768, 0, 0, 0], [-1, 0, 0, 0]])
def test_pack_says_what_does_not_fit(row):
    with pytest.raises(ValueError, match="use larger voxels"):
        pack_coords(torch.tensor([row]))


def test_cartesian_cells_by_hand_and_clamped_at_the_border():
    grid = CartesianGrid((-1.0, -1.0, 0.0), 0.5, (4, 4, 2))
    points = torch.tensor([[-1.0, -0.51, 0.0, 0.3], [0.99, 0.0, 0.75, 0.0], [-7.0, 9.0, 1e9, 0.0]])
    assert grid.cells(points).tolist() == [[0, 0, 0], [3, 2, 1], [0, 3, 1]]


def test_centred_grid_covers_the_range_with_whole_coarse_cells():
    grid = CartesianGrid.centred(range_m=50.0, voxel_size_m=0.3, multiple=16)
    assert grid.shape == (336,) * 3  # 100 / 0.3 = 333.3
    assert grid.origin_m[0] == pytest.approx(-50.4)


def test_cylinder_cells_by_hand():
    grid = CylinderGrid(radius_m=50.0, height_m=(-4.0, 2.0), shape=(51, 5, 7))  # steps 1 m, 90 deg, 1 m
    points = torch.tensor([[3.5, 0.1, -4.0], [-0.1, 20.2, 0.5], [-60.0, -0.1, 9.0], [50.0, 0.1, 2.0]])
    assert grid.cells(points).tolist() == [[3, 2, 0], [20, 3, 4], [50, 0, 6], [50, 2, 6]]


def test_cylinder_upper_limits_are_the_last_cell():
    grid = CylinderGrid(radius_m=50.0, height_m=(-4.0, 2.0), shape=(240, 180, 20))
    point = torch.tensor([[-50.0, 0.0, 2.0]], dtype=torch.float64)
    assert math.atan2(0.0, -50.0) == math.pi
    assert grid.cells(point).tolist() == [[239, 179, 19]]


def test_a_cell_lies_around_its_centre():
    grid = CylinderGrid(radius_m=50.0, height_m=(-4.0, 2.0), shape=(51, 5, 7))  # steps 1 m, 90 deg, 1 m
    centres = grid.centres(_cells([[0, 0, 0], [3, 2, 4]]))
    torch.testing.assert_close(centres, torch.tensor([[0.5, -0.75 * math.pi, -3.5], [3.5, 0.25 * math.pi, 0.5]]))
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 9.0, 0.6])
    offset = grid.polar(points) - grid.centres(grid.cells(points))
    assert (offset.abs() <= 0.5 * torch.tensor(grid.step) + 1e-5).all()


def test_positions_count_cells_from_the_corner_also_outside():
    grid = CartesianGrid((-1.0, -1.0, 0.0), 0.5, (4, 4, 2))
    assert grid.positions(torch.tensor([[-1.0, -0.75, 3.0, 0.3]])).tolist() == [[0.0, 0.5, 6.0]]


def test_max_by_hand_and_its_gradient_goes_to_the_winner():
    voxels = find_voxels(_cells([[1, 0, 0], [0, 0, 0], [1, 0, 0]]), torch.zeros(3, dtype=torch.int64))
    values = torch.tensor([[1.0, -5.0], [-3.0, 2.0], [4.0, -6.0]], requires_grad=True)
    out = voxels.max(values)
    assert out.tolist() == [[-3.0, 2.0], [4.0, -5.0]]
    (out * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert values.grad.tolist() == [[0.0, 4.0], [1.0, 2.0], [3.0, 0.0]]


def test_vote_ignores_unknown_points_and_breaks_ties_downwards():
    cells = _cells([[0, 0, 0]] * 4 + [[0, 0, 1]] * 3 + [[5, 0, 0]])
    labels = torch.tensor([IGNORE, IGNORE, IGNORE, 0, 7, 3, IGNORE, IGNORE])
    voxels = find_voxels(cells, torch.zeros(8, dtype=torch.int64))
    assert voxels.vote(labels).tolist() == [0, 3, IGNORE]


def test_mean_by_hand_and_scans_stay_apart():
    cells = _cells([[1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    voxels = find_voxels(cells, torch.tensor([0, 0, 0, 1]))
    assert voxels.point_cell.tolist() == [1, 0, 1, 2]
    assert unpack_coords(voxels.keys).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    means = voxels.mean(torch.tensor([[1.0], [5.0], [2.0], [9.0]]))
    assert means.flatten().tolist() == [5.0, 1.5, 9.0]


def test_nothing_in_nothing_out():
    voxels = find_voxels(_cells([]), torch.zeros(0, dtype=torch.int64))
    assert len(voxels) == 0
    assert voxels.mean(torch.zeros(0, 4)).shape == voxels.max(torch.zeros(0, 4)).shape == (0, 4)
    assert voxels.vote(torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_segment_sum_of_an_empty_segment_is_zero():
    total = segment_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1, 3]))
    assert total.flatten().tolist() == [4.0, 0.0, 3.0]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4, st.sampled_from([0, 1, 2, IGNORE])), max_size=40))
def test_voxels_agree_with_a_dictionary(rows):
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
    voxels = find_voxels(table[:, 1:4].to(torch.int32), table[:, 0])
    by_hand: dict[tuple, list[int]] = {}
    for scan, *cell, label in rows:
        by_hand.setdefault((scan, *cell), []).append(label)
    assert unpack_coords(voxels.keys).tolist() == [list(key) for key in sorted(by_hand)]
    assert [tuple(unpack_coords(voxels.keys)[i].tolist()) for i in voxels.point_cell] == [row[:4] for row in rows]
    for key, winner in zip(sorted(by_hand), voxels.vote(table[:, 4]).tolist(), strict=True):
        known = [label for label in by_hand[key] if label != IGNORE]
        assert winner == (max(sorted(set(known)), key=known.count) if known else IGNORE)

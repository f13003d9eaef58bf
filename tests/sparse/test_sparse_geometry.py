import gc
import weakref

import pytest
import torch

from ray_lidarseg.sparse.geometry import HALVING, Coarsening, VoxelGeometry


def test_levels_are_parents_and_stay_inside_their_scan():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 7], [0, 1, 1, 6], [0, 4, 5, 6], [1, 0, 0, 7]]))
    assert geometry.shape == (5, 6, 8)
    assert geometry.coords(1).tolist() == [[0, 0, 0, 3], [0, 2, 2, 3], [1, 0, 0, 3]]
    assert geometry.coords(3).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert [geometry.num_voxels(level) for level in range(4)] == [4, 3, 3, 2]


def test_maps_are_built_once_and_up_reuses_down():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]))
    assert geometry.submanifold(1) is geometry.submanifold(1)
    assert geometry.submanifold(0) is not geometry.submanifold(0, (3, 1, 3))
    assert geometry.up(0) is geometry.up(0)
    assert geometry.up(0).src is geometry.down(0).dst


def test_levels_of_a_wide_kernel_reach_beyond_the_parents_and_stay_in_the_grid():
    coarsenings = (Coarsening((2, 2, 2), (3, 3, 3)), Coarsening((2, 2, 1), (1, 1, 3)))
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 1], [0, 4, 0, 4], [1, 5, 0, 5]]), coarsenings)
    assert [geometry.level_shape(level) for level in range(4)] == [(6, 1, 6), (3, 1, 3), (2, 1, 3), (1, 1, 2)]
    assert geometry.coords(1).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 0, 2], [1, 2, 0, 2]]
    assert geometry.coords(2).tolist() == [[0, 0, 0, z] for z in range(3)] + [
        [s, 1, 0, z] for s in (0, 1) for z in (1, 2)
    ]
    assert geometry.num_voxels(3) == 4  # behind the given steps levels halve again


def test_parents_are_rows_of_the_coarser_level():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 7], [0, 1, 1, 6], [0, 4, 5, 6], [1, 0, 0, 7]]))
    assert geometry.parents(0).tolist() == [0, 0, 1, 2]
    assert geometry.parents(1).tolist() == [0, 1, 2]
    wide = VoxelGeometry(geometry.keys, geometry.shape, (HALVING, Coarsening((2, 2, 1), (3, 3, 3))))
    assert wide.parents(0).tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="level 1 is coarsened by"):
        wide.parents(1)


def test_maps_are_freed_with_their_batch_without_the_garbage_collector():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]))
    for pairs in (geometry.down(0), geometry.up(0), geometry.submanifold(0)):
        assert pairs.by_output
        assert pairs.tiles("out")
    watched = weakref.ref(geometry.up(0))
    gc.disable()
    try:
        del geometry, pairs
        assert watched() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("rows", [[[0, 1, 0, 0], [0, 0, 9, 9]], [[0, 1, 0, 0], [0, 1, 0, 0]]])
def test_unordered_or_repeated_voxels_are_refused(rows):
    with pytest.raises(ValueError, match="unique and ascending"):
        VoxelGeometry.of_coords(torch.tensor(rows))


def test_a_grid_that_would_wrap_around_is_refused():
    full = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 65535]]))
    with pytest.raises(ValueError, match="larger voxels or a shorter range"):
        full.submanifold(0)
    assert full.submanifold(0, (1, 1, 1)).num_products == 2
    assert full.submanifold(1).num_products == 2  # coarser levels have room again
    with pytest.raises(ValueError, match="larger voxels or a shorter range"):
        VoxelGeometry(full.keys, full.shape, (Coarsening((2, 2, 1), (3, 3, 3)),)).coords(1)


def test_no_voxels_at_any_level():
    geometry = VoxelGeometry.of_coords(torch.zeros(0, 4, dtype=torch.int32))
    assert geometry.num_voxels(4) == 0
    assert geometry.submanifold(2).num_products == 0
    assert geometry.down(3, (3, 3, 3)).num_products == 0
    wide = VoxelGeometry(geometry.keys, (4, 4, 4), (Coarsening((2, 2, 1), (3, 3, 3)),))
    assert wide.down(0, (3, 3, 3)).num_products == wide.num_voxels(2) == 0

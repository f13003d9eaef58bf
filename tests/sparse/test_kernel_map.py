from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.voxelize import pack_coords
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.kernel_map import offsets_of, reach
from ray_lidarseg.sparse.pair_search import (
    built,
    halving_search,
    parent_keys,
    strided_search,
    submanifold_map,
    touched_keys,
)

KERNELS = [(3, 3, 3), (3, 1, 3), (1, 3, 3), (1, 1, 3), (3, 1, 1), (1, 1, 1), (5, 3, 1), (1, 3, 5)]

coords_strategy = st.sets(st.tuples(st.integers(0, 1), *[st.integers(0, 4)] * 3), max_size=60)


def _keys(coords) -> torch.Tensor:
    return pack_coords(torch.tensor(sorted(coords), dtype=torch.int64).reshape(-1, 4))


def _pairs(pairs) -> set[tuple[int, int, int]]:
    return {
        (k, i, j)
        for k, start, end in pairs.spans()
        for i, j in zip(pairs.src[start:end].tolist(), pairs.dst[start:end].tolist(), strict=True)
    }


def _brute_force(inputs, outputs, kernel, stride) -> set[tuple[int, int, int]]:
    row = {coord: index for index, coord in enumerate(inputs)}
    found = set()
    for index, (scan, *cell) in enumerate(outputs):
        for k, offset in enumerate(offsets_of(kernel)):
            neighbour = (scan, *(s * c + d for s, c, d in zip(stride, cell, offset, strict=True)))
            if neighbour in row:
                found.add((k, row[neighbour], index))
    return found


def test_offsets_are_x_major_and_z_fastest():
    assert offsets_of((3, 3, 3)).index((1, -1, 0)) == 9 * 2 + 3 * 0 + 1
    assert offsets_of((2, 2, 2)).index((1, 0, 1)) == 5
    assert [reach(kernel) for kernel in ((3, 3, 3), (5, 1, 1), (2, 2, 2), (1, 1, 1))] == [1, 2, 1, 0]


@pytest.mark.parametrize("kernel", KERNELS)
@settings(deadline=None, max_examples=25)
@given(coords=coords_strategy)
def test_submanifold_map_is_what_brute_force_finds(kernel, coords):
    coords = sorted(coords)
    found = submanifold_map(_keys(coords), kernel)
    center = found.num_offsets // 2
    identity = {(center, row, row) for row in range(len(coords))}
    assert found.center == center
    assert _pairs(found) | identity == _brute_force(coords, coords, kernel, (1, 1, 1))
    assert found.num_products == len(_brute_force(coords, coords, kernel, (1, 1, 1)))


@settings(deadline=None, max_examples=25)
@given(coords=coords_strategy)
def test_submanifold_map_is_point_symmetric(coords):
    pairs = _pairs(submanifold_map(_keys(coords), (3, 3, 3)))
    assert pairs == {(26 - k, j, i) for k, i, j in pairs}


@pytest.mark.parametrize("kernel", [(2, 2, 2), (3, 3, 3), (3, 1, 2)])
@settings(deadline=None, max_examples=25)
@given(coords=coords_strategy)
def test_down_maps_are_what_brute_force_finds(kernel, coords):
    coords = sorted(coords)
    outputs = sorted({(scan, *(c // 2 for c in cell)) for scan, *cell in coords})
    keys = _keys(coords)
    coarse, parent = torch.unique(parent_keys(keys), return_inverse=True)
    assert torch.equal(coarse, _keys(outputs))
    expected = _brute_force(coords, outputs, kernel, (2, 2, 2))
    assert _pairs(built([strided_search(keys, coarse, kernel)])[0]) == expected
    if kernel == (2, 2, 2):
        assert _pairs(built([halving_search(keys, coarse, parent)])[0]) == expected
        assert len(expected) == len(coords)  # every voxel has one parent


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (2, 2, 1)), ((2, 3, 5), (1, 3, 2)), ((2, 2, 2), (2, 2, 2))],
)
@settings(deadline=None, max_examples=25)
@given(coords=coords_strategy)
def test_touched_cells_and_their_pairs_are_what_brute_force_finds(kernel, stride, coords):
    coords, shape = sorted(coords), tuple(-(-5 // step) for step in stride)
    everywhere = [(scan, *cell) for scan in (0, 1) for cell in product(*map(range, shape))]
    reached = {everywhere[out] for _, _, out in _brute_force(coords, everywhere, kernel, stride)}
    coarse = touched_keys(_keys(coords), kernel, stride, shape)
    assert torch.equal(coarse, _keys(reached))
    assert _pairs(built([strided_search(_keys(coords), coarse, kernel, stride)])[0]) == _brute_force(
        coords, sorted(reached), kernel, stride
    )


@pytest.mark.parametrize("half", [(0, 0, 0, 0), (1, 4, 3, 2), (0, 4, 4, 4)])
def test_kernel_two_at_stride_two_touches_the_parents_only(half):
    assert torch.equal(touched_keys(_keys([half]), (2, 2, 2), (2, 2, 2), (3, 3, 3)), parent_keys(_keys([half])))


@settings(deadline=None, max_examples=25)
@given(coords=coords_strategy)
def test_pairs_are_sorted_and_unique_within_an_offset(coords):
    geometry = VoxelGeometry(_keys(coords), (5, 5, 5))
    for pairs in (geometry.submanifold(0), geometry.down(0), geometry.down(0, (3, 3, 3)), geometry.up(0)):
        for _, start, end in pairs.spans():
            assert (pairs.dst[start:end].diff() > 0).all()
            assert len(pairs.src[start:end].unique()) == end - start
        order, starts = pairs.by_output
        assert torch.equal(pairs.dst[order], torch.arange(pairs.num_out).repeat_interleave(starts.diff()))


def test_transposing_swaps_the_sides():
    pairs = VoxelGeometry(_keys([(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 2)]), (3, 3, 3)).down(0)
    assert _pairs(pairs.transposed()) == {(k, j, i) for k, i, j in _pairs(pairs)}
    assert (pairs.transposed().num_in, pairs.transposed().num_out) == (pairs.num_out, pairs.num_in)
    assert torch.equal(pairs.transposed().by_output[0], pairs.by_input[0])


def test_even_submanifold_kernel_is_refused():
    with pytest.raises(ValueError, match="odd kernel sizes"):
        submanifold_map(_keys([(0, 0, 0, 0)]), (2, 2, 2))


def test_opposite_borders_of_the_address_space_do_not_touch():
    edge = 65534
    corners = [(0, 0, 0, edge), (0, 0, 1, 0), (0, edge, edge, edge), (1, 0, 0, 0)]
    assert len(submanifold_map(_keys(corners), (3, 3, 3)).src) == 0

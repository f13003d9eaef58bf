"""Every pair of a kernel map has one place, offsets of a stack are equally high, and the rest is empty."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.geometry.voxelize import segments
from ray_lidarseg.sparse.stacked_pairs import LEAST_SHARE, stacked

NUM_IN, NUM_OUT = 30, 20


def _stacked(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    src, dst = (
        torch.cat([torch.randperm(rows, generator=generator)[:count].sort().values for count in counts]).int()
        for rows in (NUM_IN, NUM_OUT)
    )
    bounds = [0, *torch.tensor(counts).cumsum(0).tolist()]
    by_row = segments(dst, NUM_OUT), segments(src, NUM_IN)
    return src, dst, bounds, by_row, stacked(src, dst, bounds, NUM_OUT, *by_row)


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(0, NUM_OUT), min_size=1, max_size=27).filter(any), seed=st.integers(0, 99))
def test_every_pair_has_one_place_under_its_offset(counts, seed):
    src, dst, bounds, _, found = _stacked(counts, seed)
    place_pairs = {offset: [] for offset in range(len(counts))}
    for stack in found.stacks:
        height = (stack.places.stop - stack.places.start) // stack.count
        for index, offset in enumerate(found.offsets[stack.offsets].tolist()):
            rows = slice(stack.places.start + index * height, stack.places.start + (index + 1) * height)
            pairs = list(zip(found.src[rows].tolist(), found.dst[rows].tolist(), strict=True))
            assert counts[offset] >= LEAST_SHARE * height
            assert pairs[counts[offset] :] == [(0, NUM_OUT)] * (height - counts[offset])
            place_pairs[offset] = pairs[: counts[offset]]
    for offset, (start, end) in enumerate(pairwise(bounds)):
        assert place_pairs[offset] == list(zip(src[start:end].tolist(), dst[start:end].tolist(), strict=True))


def test_sums_by_row_meet_the_same_pairs_in_the_same_order():
    src, dst, _, (by_output, by_input), found = _stacked([7, 20, 0, 12, 1])
    for (order, starts), (places, begins), rows, of_place in (
        (by_output, found.by_output, src, found.src),
        (by_input, found.by_input, dst, found.dst),
    ):
        assert torch.equal(rows[order], of_place[places])
        assert torch.equal(starts, begins)


def test_offsets_without_pairs_take_part_in_nothing():
    *_, found = _stacked([0, 3, 0])
    assert found.offsets.tolist() == [1]
    *_, none = _stacked([0, 0])
    assert none.stacks == ()
    assert len(none.offsets) == len(none.src) == 0


@pytest.mark.parametrize(("counts", "heights"), [([10, 9, 7, 5, 4, 1], [(3, 10), (2, 5), (1, 1)]), ([4, 4], [(2, 4)])])
def test_a_stack_ends_where_an_offset_would_be_mostly_empty(counts, heights):
    *_, found = _stacked(counts)
    assert [(s.count, (s.places.stop - s.places.start) // s.count) for s in found.stacks] == heights

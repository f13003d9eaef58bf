"""Searches for the pairs of a sparse convolution among the addresses of voxels.

Addresses are ascending int64 (``geometry.voxelize``), so an offset is one integer added to an address, and the voxels
at z - 1, z, z + 1 of a column are neighbours in the list: a 3 x 3 x 3 submanifold map needs four binary searches, the
rest is a walk and point symmetry.

How many pairs there are only the search knows, and a host that asks a GPU waits for it. So a ``Search`` comes first and
``built`` asks once for all maps of a batch; on a GPU all columns are searched in one launch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS, pack_coords, row_like, segments, unpack_coords
from ray_lidarseg.sparse.kernel_map import Kernel, KernelMap, Stride, offsets_of

_SPATIAL_BITS = 3 * FIELD_BITS
_SPATIAL_MASK = (1 << _SPATIAL_BITS) - 1
_NOWHERE = (1 << 63) - 1
_HALVED_MASK = sum(((1 << FIELD_BITS - 1) - 1) << shift for shift in (0, FIELD_BITS, 2 * FIELD_BITS))


@dataclass(frozen=True)
class Search:
    """A map that was found, but not how large it is.

    Attributes:
        counts: Pairs of each offset, on the device; see ``KernelMap.counts``.
        finish: Takes these counts on the host.
    """

    counts: Int[Tensor, "_"]
    finish: Callable[[list[int]], KernelMap]


def built(searches: Sequence[Search]) -> list[KernelMap]:
    """The maps of several searches; the host waits once for the sizes of all."""
    counts = torch.cat([search.counts for search in searches]).tolist() if searches else []
    maps, start = [], 0
    for search in searches:
        end = start + len(search.counts)
        maps.append(search.finish(counts[start:end]))
        start = end
    return maps


def parent_keys(keys: Int[Tensor, "V"]) -> Int[Tensor, "V"]:
    """Addresses of the cells twice as large, one per fine voxel, repeats included."""
    return (keys & ~_SPATIAL_MASK) | ((keys & _SPATIAL_MASK) >> 1 & _HALVED_MASK)


def submanifold_map(keys: Int[Tensor, "V"], kernel: Kernel) -> KernelMap:
    """The map of ``submanifold_search``, for one alone."""
    return built([submanifold_search(keys, kernel)])[0]


def submanifold_search(keys: Int[Tensor, "V"], kernel: Kernel) -> Search:
    """The map whose outputs are its inputs.

    Args:
        keys: Ascending unique addresses.
        kernel: Odd sizes.

    Raises:
        ValueError: A size is even.
    """
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"a submanifold convolution needs odd kernel sizes, got {kernel}")
    # offset k and its mirror find the same pairs the other way round: half of them is searched, half is read backwards
    half = math.prod(kernel) // 2
    whole = find_offsets(keys, keys, kernel, half // kernel[2])
    hit, place = (torch.cat(both) for both in zip(whole, _below(keys, kernel[2] // 2), strict=True))
    counts = hit.sum(1)

    def finish(sizes: list[int]) -> KernelMap:
        rows, near = _pairs(hit, place, sum(sizes))
        src = torch.cat([near, *rows.split(sizes)[::-1]])
        dst = torch.cat([rows, *near.split(sizes)[::-1]])
        # the centre's own offset has no pairs: its weight multiplies all rows as they lie
        bounds = (0, *accumulate([*sizes, 0, *sizes[::-1]]))
        return KernelMap(len(keys), len(keys), src, dst, bounds, half, counts)

    return Search(counts, finish)


def _below(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The neighbours at z - count … z - 1: no search, they are the rows just before."""
    hit = torch.empty(count, len(keys), dtype=torch.bool, device=keys.device)
    row = torch.empty(count, len(keys), dtype=torch.int64, device=keys.device)
    place = torch.arange(len(keys), device=keys.device)
    for distance in range(1, count + 1):
        # keys ascend, so a neighbour further down in z can only be the row before the last one found
        torch.clamp_min(place - 1, 0, out=row[-distance])
        torch.eq(keys[row[-distance]], keys - distance, out=hit[-distance])
        place = place - hit[-distance].long()
    return hit, row


def _pairs(hit: Tensor, place: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Rows of the centres that have the neighbour, and the neighbours' rows, by offset."""
    found = hit.view(-1).nonzero_static(size=num_pairs).view(-1)
    row = torch.empty(num_pairs, dtype=torch.int32, device=hit.device)
    return torch.remainder(found, max(hit.shape[1], 1), out=row), place.view(-1).index_select(0, found).to(torch.int32)


def halving_search(keys: Int[Tensor, "V"], coarse: Int[Tensor, "U"], parent: Int[Tensor, "V"]) -> Search:
    """Kernel 2, stride 2: every fine voxel meets its parent, under the offset that its lowest bits spell.

    Args:
        keys: Ascending unique addresses of the fine voxels.
        coarse: Ascending unique addresses of their parents.
        parent: Row in ``coarse`` of each fine voxel.
    """
    x, y, z = (keys >> shift & 1 for shift in (2 * FIELD_BITS, FIELD_BITS, 0))
    order, starts = segments((4 * x + 2 * y + z).to(torch.int32), 8)
    counts = starts.diff()

    def finish(sizes: list[int]) -> KernelMap:
        bounds = (0, *accumulate(sizes))
        return KernelMap(
            len(keys), len(coarse), order, parent.index_select(0, order).to(torch.int32), bounds, None, counts
        )

    return Search(counts, finish)


def strided_search(
    keys: Int[Tensor, "V"], coarse: Int[Tensor, "U"], kernel: Kernel, stride: Stride = (2, 2, 2)
) -> Search:
    """Any kernel and stride: output o gathers the inputs at stride · o + offset; outputs are the given coarse voxels.

    Args:
        keys: Ascending unique addresses of the fine voxels.
        coarse: Ascending unique addresses of the coarse voxels, in cells ``stride`` times as wide.
        kernel: Sizes.
        stride: Of each axis, 1 or more.
    """
    coords = unpack_coords(coarse).to(torch.int64)
    anchors = pack_coords(coords * row_like((1, *stride), coords))
    hit, place = find_offsets(keys, anchors, kernel, kernel[0] * kernel[1])
    counts = hit.sum(1)

    def finish(sizes: list[int]) -> KernelMap:
        dst, src = _pairs(hit, place, sum(sizes))
        return KernelMap(len(keys), len(coarse), src, dst, (0, *accumulate(sizes)), None, counts)

    return Search(counts, finish)


def touched_keys(
    keys: Int[Tensor, "V"], kernel: Kernel, stride: Stride, shape: tuple[int, int, int]
) -> Int[Tensor, "U"]:
    """The coarse cells whose kernel meets at least one voxel: where a dense convolution is not zero.

    With kernel 2 and stride 2 these are the parents; a kernel wider than its stride reaches further cells.

    Args:
        keys: Ascending unique addresses of the fine voxels.
        kernel: Sizes.
        stride: Of each axis, 1 or more.
        shape: Cells of the coarse grid; none outside it is given.

    Returns:
        Ascending unique addresses.
    """
    fields = unpack_coords(keys).to(torch.int64).unbind(1)
    candidates = (fields[0] << _SPATIAL_BITS).unsqueeze(0)
    is_cell = torch.ones_like(candidates, dtype=torch.bool)
    for axis, (size, step, cells) in enumerate(zip(kernel, stride, shape, strict=True)):
        # o reaches x where start <= x - step · o < start + size: the topmost such o, and those below it
        start = -(size // 2) if size % 2 else 0
        above = fields[1 + axis] - start
        below = row_like(tuple(range(-(-size // step))), keys)[:, None]
        cell = above.div(step, rounding_mode="floor") - below
        is_reached = (above - cell * step < size) & (cell >= 0) & (cell < cells)
        shifted = cell << (2 - axis) * FIELD_BITS
        candidates = (candidates.unsqueeze(1) + shifted).flatten(0, 1)
        is_cell = (is_cell.unsqueeze(1) & is_reached).flatten(0, 1)
    return _distinct(torch.where(is_cell, candidates, _NOWHERE).flatten())


def _distinct(keys: Tensor) -> Tensor:
    """The numbers of a list that are not ``_NOWHERE``, ascending, each once; the host waits for how many they are."""
    ordered, _ = keys.sort()
    is_first = ordered != _NOWHERE
    is_first[1:] &= ordered[1:] != ordered[:-1]
    return ordered[is_first.nonzero_static(size=int(is_first.sum())).flatten()]


def find_offsets(
    keys: Int[Tensor, "V"], centers: Int[Tensor, "M"], kernel: Kernel, num_columns: int
) -> tuple[Bool[Tensor, "N M"], Int[Tensor, "N M"]]:
    """For the offsets of the first columns in z: whether each centre's neighbour exists, and its row in ``keys``."""
    make = torch.empty if len(keys) else torch.zeros
    size = num_columns, kernel[2], len(centers)
    hit, place = (make(size, dtype=dtype, device=keys.device) for dtype in (torch.bool, torch.int64))
    if len(keys) and num_columns:
        steps = _column_steps(kernel, keys.device)[:num_columns, None]
        # on a CPU a column at a time stays in the cache
        at_once = 1 if keys.device.type == "cpu" else num_columns
        for first in range(0, num_columns, at_once):
            part = slice(first, first + at_once)
            _walk(keys, centers + steps[part], hit[part], place[part])
    return hit.flatten(0, 1), place.flatten(0, 1)


def _walk(keys: Tensor, wanted: Tensor, hit: Tensor, place: Tensor) -> None:
    """One search for the lowest cell of each column; those above are the rows behind it."""
    row = torch.searchsorted(keys, wanted)
    for height in range(hit.shape[1]):
        torch.clamp_max(row, len(keys) - 1, out=place[:, height])
        torch.eq(keys[place[:, height]], wanted + height, out=hit[:, height])
        row = place[:, height] + hit[:, height]


@lru_cache(maxsize=64)
def _column_steps(kernel: Kernel, device: torch.device) -> Int[Tensor, "N"]:
    """By how much an address grows to the lowest cell of each column."""
    steps = [(dx << 2 * FIELD_BITS) + (dy << FIELD_BITS) + dz for dx, dy, dz in offsets_of(kernel)]
    return torch.tensor(steps[:: kernel[2]], device=device)

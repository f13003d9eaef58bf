"""Which input row meets which output row under which kernel offset: the pair lists of a sparse convolution.

Offsets of a kernel of size (kx, ky, kz) are numbered x-major, z fastest; an odd size reaches from -(k - 1)/2 to
(k - 1)/2, an even size from 0 to k - 1, as ``torch.conv3d`` with the usual padding does (cross-correlation).

Addresses are ascending int64 (``geometry.voxelize``), so an offset is one integer added to an address, and the voxels
at z - 1, z, z + 1 of a column are neighbours in the list: a 3 x 3 x 3 submanifold map needs four binary searches, the
rest is a walk and point symmetry.

How many pairs there are only the search knows, and a host that asks a GPU waits for it. So a ``Search`` comes first and
``built`` asks once for all maps of a batch; on a GPU all columns are searched in one launch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise, product
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS, pack_coords, row_like, segments, unpack_coords
from ray_lidarseg.sparse.products import BLOCK_ROWS, padded_rows
from ray_lidarseg.sparse.stacked_pairs import StackedPairs, stacked

Kernel = tuple[int, int, int]
Stride = tuple[int, int, int]
Side = Literal["in", "out"]

TILE_BYTES = 1 << 26
"""Memory that the products of one convolution may take at once (ours: past the cache anyway, little of a machine)."""

_SPATIAL_BITS = 3 * FIELD_BITS
_SPATIAL_MASK = (1 << _SPATIAL_BITS) - 1
_NOWHERE = (1 << 63) - 1
_HALVED_MASK = sum(((1 << FIELD_BITS - 1) - 1) << shift for shift in (0, FIELD_BITS, 2 * FIELD_BITS))


@dataclass(frozen=True)
class KernelMap:
    """The pairs of one convolution, sorted by (offset, output row); within an offset every row occurs at most once.

    Within an offset the rows of both sides ascend, but where several inputs share an output they only do not descend.

    Attributes:
        num_in: Rows of the input.
        num_out: Rows of the output.
        src: [N] int32 input row of each pair: half the memory of int64, and all that gathering and summing take.
        dst: [N] int32 output row of each pair.
        bounds: K + 1 places where each offset's pairs begin, on the host.
        center: Offset under which row i meets row i for every i; it has no pairs. None where there is none.
        counts: Pairs of each offset, on the device; of a map with a centre those before it, as the others mirror them.
        adjoint: The map this one was transposed from; both share what is sorted by row.
    """

    num_in: int
    num_out: int
    src: Int[Tensor, "N"]
    dst: Int[Tensor, "N"]
    bounds: tuple[int, ...]
    center: int | None
    counts: Int[Tensor, "_"]
    adjoint: "KernelMap | None" = field(default=None, repr=False, compare=False)

    @property
    def num_offsets(self) -> int:
        """K, the kernel's volume."""
        return len(self.bounds) - 1

    @property
    def num_products(self) -> int:
        """Rows multiplied by a weight matrix, the centre's included."""
        return len(self.src) + (self.num_out if self.center is not None else 0)

    def spans(self) -> list[tuple[int, int, int]]:
        """(offset, first pair, end) of every offset that has pairs."""
        spans = enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True))
        return [(offset, start, end) for offset, (start, end) in spans if end > start]

    @cached_property
    def stacked(self) -> StackedPairs:
        """The pairs as few batched products take them."""
        return stacked(self.src, self.dst, self.bounds, self.num_out, self.by_output, self.by_input)

    def tiles(self, side: Side, num_tiles: int = 1) -> list["Tile"]:
        """The pairs, in blocks of fixed sizes, of each of ``num_tiles`` ranges of one side's rows."""
        tiles: dict[tuple[Side, int], list[Tile]] = self.__dict__.setdefault("_tiles", {})
        if (side, num_tiles) not in tiles:
            tiles[side, num_tiles] = self._build_tiles(side, num_tiles)
        return tiles[side, num_tiles]

    def _build_tiles(self, side: Side, num_tiles: int) -> list["Tile"]:
        if side == "in" and self.center is not None:  # pair (k, i, j) has the twin (K - 1 - k, j, i) at the same place
            return [tile.mirrored(self.num_offsets) for tile in self.tiles("out", num_tiles)]
        if side == "in":
            return _cut(self.src, self.dst, self.bounds, self.by_input, num_tiles)
        return _cut(self.dst, self.src, self.bounds, self.by_output, num_tiles)

    @cached_property
    def ends(self) -> Int[Tensor, "K"]:
        """int32 end of each offset's pairs, on the device: what ``grouped_mm`` takes."""
        return self._all_counts.cumsum(0, dtype=torch.int32)

    @property
    def _all_counts(self) -> Int[Tensor, "K"]:
        if self.center is None:
            return self.counts
        return torch.cat([self.counts, self.counts.new_zeros(1), self.counts.flip(0)])

    @cached_property
    def output_table(self) -> Int[Tensor, "V K"]:
        """int32 input row of each output row under each offset; ``num_in`` where there is none."""
        if self.adjoint is not None:
            return self.adjoint.input_table
        table = self._table(self.dst, self.src, self.num_out, self.num_in)
        if self.center is not None:
            table[:, self.center] = torch.arange(self.num_out, device=table.device)
        return table

    @cached_property
    def input_table(self) -> Int[Tensor, "V K"]:
        """int32 output row of each input row under each offset; ``num_out`` where there is none."""
        if self.adjoint is not None:
            return self.adjoint.output_table
        if self.center is not None:  # pair (k, i, j) has the twin (K - 1 - k, j, i)
            return self.output_table.flip(1)
        return self._table(self.src, self.dst, self.num_in, self.num_out)

    def _table(self, rows: Tensor, entries: Tensor, num_rows: int, nothing: int) -> Tensor:
        offsets = torch.arange(self.num_offsets, device=rows.device)
        offset = offsets.repeat_interleave(self._all_counts, output_size=len(rows))
        table = torch.full((num_rows, self.num_offsets), nothing, dtype=torch.int32, device=rows.device)
        place = torch.add(offset, rows, alpha=self.num_offsets)  # int64: a table may be longer than int32 counts
        table.view(-1)[place] = entries
        return table

    @cached_property
    def by_output(self) -> tuple[Int[Tensor, "N"], Int[Tensor, "E"]]:
        """Pairs ordered by output row, and where each row's pairs begin."""
        return segments(self.dst, self.num_out) if self.adjoint is None else self.adjoint.by_input

    @cached_property
    def by_input(self) -> tuple[Int[Tensor, "N"], Int[Tensor, "E"]]:
        """Pairs ordered by input row, and where each row's pairs begin."""
        return segments(self.src, self.num_in) if self.adjoint is None else self.adjoint.by_output

    def transposed(self) -> "KernelMap":
        """The adjoint map: outputs become inputs, offsets keep their numbers."""
        return KernelMap(self.num_out, self.num_in, self.dst, self.src, self.bounds, self.center, self.counts, self)


@dataclass(frozen=True)
class Block:
    """Pairs of one offset that are multiplied together.

    Attributes:
        offset: Its number.
        near: [N] rows of the pairs on the tile's side.
        far: [N] rows of the pairs on the other side.
        count: N; asking a tensor takes longer.
        size: Rows that are multiplied: N or more, of the few sizes blocks have.
    """

    offset: int
    near: Int[Tensor, "N"]
    far: Int[Tensor, "N"]
    count: int
    size: int


@dataclass(frozen=True)
class Tile:
    """A range of rows of one side, with all pairs that meet them.

    Attributes:
        rows: The range.
        blocks: Its pairs.
        order: [N] places of the products, by row of the tile.
        starts: [E] where each row begins in ``order``.
    """

    rows: slice
    blocks: list[Block]
    order: Int[Tensor, "N"]
    starts: Int[Tensor, "E"]

    @cached_property
    def sizes(self) -> list[int]:
        """Of the blocks."""
        return [block.size for block in self.blocks]

    @property
    def num_products(self) -> int:
        """Places, those without a pair included."""
        return sum(self.sizes)

    def mirrored(self, num_offsets: int) -> "Tile":
        """The tile of a point-symmetric map's other side."""
        return replace(self, blocks=[replace(b, offset=num_offsets - 1 - b.offset) for b in self.blocks])


def _cut(
    near: Tensor, far: Tensor, bounds: tuple[int, ...], by_row: tuple[Tensor, Tensor], num_tiles: int
) -> list[Tile]:
    """Within an offset rows ascend on both sides, so each tile's pairs of an offset are one stretch."""
    order, starts = by_row
    num_rows = len(starts) - 1
    edges = [num_rows * tile // num_tiles for tile in range(num_tiles + 1)]
    cuts = _cuts(near, bounds, edges)
    shifts: list[tuple[int, int, int, int]] = []  # offset, tile, what places are ahead of pairs, number of pairs
    tiles: list[list[Block]] = []
    for tile in range(num_tiles):
        blocks: list[Block] = []
        place = 0
        for offset, cut in enumerate(cuts):
            shifts.append((offset, tile, place - cut[tile], cut[tile + 1] - cut[tile]))
            for first in range(cut[tile], cut[tile + 1], BLOCK_ROWS):
                last = min(first + BLOCK_ROWS, cut[tile + 1])
                count = last - first
                blocks.append(Block(offset, near[first:last], far[first:last], count, padded_rows(count)))
                place += blocks[-1].size
        tiles.append(blocks)
    shifts.sort()  # as the pairs lie: by offset, then by row
    columns = torch.tensor([(length, shift) for *_, shift, length in shifts], dtype=near.dtype, device=near.device)
    lengths, shift = columns.unbind(1)
    shift = torch.repeat_interleave(shift, lengths)
    places = order + shift[order]
    ends = starts[edges].tolist()
    return [
        Tile(
            slice(edges[tile], edges[tile + 1]),
            blocks,
            places[ends[tile] : ends[tile + 1]],
            starts[edges[tile] : edges[tile + 1] + 1] - ends[tile],
        )
        for tile, blocks in enumerate(tiles)
    ]


def _cuts(near: Tensor, bounds: tuple[int, ...], edges: list[int]) -> list[list[int]]:
    """For each offset, where the pairs of each range of rows begin, and where the last one's end."""
    if len(edges) == 2:
        return [[first, last] for first, last in pairwise(bounds)]
    inner = near.new_tensor(edges[1:-1])
    return [
        [first, *(first + torch.searchsorted(near[first:last], inner)).tolist(), last]
        for first, last in pairwise(bounds)
    ]


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


def reach(kernel: Kernel) -> int:
    """How far the kernel looks from a voxel, in cells."""
    return max(size // 2 if size % 2 else size - 1 for size in kernel)


def offsets_of(kernel: Kernel) -> list[tuple[int, int, int]]:
    """The offsets in canonical order."""
    starts = [-(size // 2) if size % 2 else 0 for size in kernel]
    x, y, z = (range(start, start + size) for start, size in zip(starts, kernel, strict=True))
    return list(product(x, y, z))


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

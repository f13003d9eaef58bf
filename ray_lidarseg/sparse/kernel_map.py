"""Which input row meets which output row under which kernel offset: the pair lists of a sparse convolution.

Offsets of a kernel of size (kx, ky, kz) are numbered x-major, z fastest; an odd size reaches from -(k - 1)/2 to
(k - 1)/2, an even size from 0 to k - 1, as ``torch.conv3d`` with the usual padding does (cross-correlation).

Addresses are ascending int64 (``geometry.voxelize``), so an offset is one integer added to an address, and the voxels
at z - 1, z, z + 1 of a column are neighbours in the list: a 3 x 3 x 3 submanifold map needs four binary searches, the
rest is a walk and point symmetry.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, product
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS, pack_coords, unpack_coords
from ray_lidarseg.sparse.products import BLOCK_ROWS, padded_rows

Kernel = tuple[int, int, int]
Stride = tuple[int, int, int]
Side = Literal["in", "out"]

TILE_BYTES = 1 << 26
"""Memory that the products of one convolution may take at once (ours: past the cache anyway, little of a machine)."""

_SPATIAL_BITS = 3 * FIELD_BITS
_SPATIAL_MASK = (1 << _SPATIAL_BITS) - 1
_HALVED_MASK = sum(((1 << FIELD_BITS - 1) - 1) << shift for shift in (0, FIELD_BITS, 2 * FIELD_BITS))


@dataclass(frozen=True)
class KernelMap:
    """The pairs of one convolution, sorted by (offset, output row); within an offset every row occurs at most once.

    Within an offset the rows of both sides ascend, but where several inputs share an output they only do not descend.

    Attributes:
        num_in: Rows of the input.
        num_out: Rows of the output.
        src: [N] input row of each pair.
        dst: [N] output row of each pair.
        bounds: K + 1 places where each offset's pairs begin, on the host.
        center: Offset under which row i meets row i for every i; it has no pairs. None where there is none.
    """

    num_in: int
    num_out: int
    src: Int[Tensor, "N"]
    dst: Int[Tensor, "N"]
    bounds: tuple[int, ...]
    center: int | None

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
        return torch.tensor(self.bounds[1:], dtype=torch.int32, device=self.src.device)

    @cached_property
    def by_output(self) -> tuple[Int[Tensor, "N"], Int[Tensor, "E"]]:
        """Pairs ordered by output row, and where each row's pairs begin."""
        return _segments(self.dst, self.num_out)

    @cached_property
    def by_input(self) -> tuple[Int[Tensor, "N"], Int[Tensor, "E"]]:
        """Pairs ordered by input row, and where each row's pairs begin."""
        return _segments(self.src, self.num_in)

    def transposed(self) -> "KernelMap":
        """The adjoint map: outputs become inputs, offsets keep their numbers."""
        return KernelMap(self.num_out, self.num_in, self.dst, self.src, self.bounds, self.center)


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
    lengths = torch.tensor([length for *_, length in shifts], device=near.device)
    shift = torch.repeat_interleave(torch.tensor([shift for *_, shift, _ in shifts], device=near.device), lengths)
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


def _segments(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    counts = torch.bincount(rows, minlength=num_rows)
    return rows.argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def parent_keys(keys: Int[Tensor, "V"]) -> Int[Tensor, "V"]:
    """Addresses of the cells twice as large, one per fine voxel, repeats included."""
    return (keys & ~_SPATIAL_MASK) | ((keys & _SPATIAL_MASK) >> 1 & _HALVED_MASK)


def submanifold_map(keys: Int[Tensor, "V"], kernel: Kernel) -> KernelMap:
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
    own_column = half - kernel[2] // 2
    found = find_offsets(keys, keys, kernel, own_column) + _below(keys, kernel[2] // 2)
    rows, near = _pairs(found)
    return _assemble(keys, near + rows[::-1], rows + near[::-1], half, len(keys))


def _below(keys: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """The neighbours at z - count … z - 1: no search, they are the rows just before."""
    found: list[tuple[Tensor, Tensor]] = []
    place = torch.arange(len(keys), device=keys.device)
    for distance in range(1, count + 1):
        # keys ascend, so a neighbour further down in z can only be the row before the last one found
        below = (place - 1).clamp_min(0)
        hit = keys[below] == keys - distance
        found.insert(0, (hit, below))
        place = place - hit.to(place.dtype)
    return found


def _pairs(found: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of the centres that have the neighbour, and the neighbours' rows, by offset."""
    rows = [hit.nonzero().flatten() for hit, _ in found]
    return rows, [place[chosen] for chosen, (_, place) in zip(rows, found, strict=True)]


def _assemble(keys: Tensor, src: list[Tensor], dst: list[Tensor], center: int | None, num_out: int) -> KernelMap:
    # the centre's own offset has no pairs: its weight multiplies all rows as they lie
    counts = [len(rows) for rows in src]
    if center is not None:
        counts.insert(center, 0)
    bounds = [0, *accumulate(counts)]
    none = torch.zeros(0, dtype=torch.int64, device=keys.device)
    return KernelMap(len(keys), num_out, torch.cat([none, *src]), torch.cat([none, *dst]), tuple(bounds), center)


def halving_map(keys: Int[Tensor, "V"], coarse: Int[Tensor, "U"], parent: Int[Tensor, "V"]) -> KernelMap:
    """Kernel 2, stride 2: every fine voxel meets its parent, under the offset that its lowest bits spell.

    Args:
        keys: Ascending unique addresses of the fine voxels.
        coarse: Ascending unique addresses of their parents.
        parent: Row in ``coarse`` of each fine voxel.
    """
    x, y, z = (keys >> shift & 1 for shift in (2 * FIELD_BITS, FIELD_BITS, 0))
    offset = 4 * x + 2 * y + z
    order = (offset * len(keys) + torch.arange(len(keys), device=keys.device)).argsort()
    bounds = [0, *torch.bincount(offset, minlength=8).cumsum(0).tolist()]
    return KernelMap(len(keys), len(coarse), order, parent[order], tuple(bounds), None)


def strided_map(
    keys: Int[Tensor, "V"], coarse: Int[Tensor, "U"], kernel: Kernel, stride: Stride = (2, 2, 2)
) -> KernelMap:
    """Any kernel and stride: output o gathers the inputs at stride · o + offset; outputs are the given coarse voxels.

    Args:
        keys: Ascending unique addresses of the fine voxels.
        coarse: Ascending unique addresses of the coarse voxels, in cells ``stride`` times as wide.
        kernel: Sizes.
        stride: Of each axis, 1 or more.
    """
    coords = unpack_coords(coarse).to(torch.int64)
    anchors = pack_coords(coords * coords.new_tensor([1, *stride]))
    dst, src = _pairs(find_offsets(keys, anchors, kernel, math.prod(kernel)))
    return _assemble(keys, src, dst, None, len(coarse))


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
    coords = unpack_coords(keys).to(torch.int64)
    for axis, (size, step, cells) in enumerate(zip(kernel, stride, shape, strict=True), start=1):
        start = -(size // 2) if size % 2 else 0
        reached = [_with_column(coords, axis, coords[:, axis] - offset) for offset in range(start, start + size)]
        coords = torch.cat([rows[rows[:, axis] % step == 0] for rows in reached])
        coords = _with_column(coords, axis, coords[:, axis] // step)
        coords = coords[(coords[:, axis] >= 0) & (coords[:, axis] < cells)]
    return pack_coords(coords).unique()


def _with_column(rows: Tensor, column: int, values: Tensor) -> Tensor:
    return torch.cat([rows[:, :column], values.unsqueeze(1), rows[:, column + 1 :]], 1)


def reach(kernel: Kernel) -> int:
    """How far the kernel looks from a voxel, in cells."""
    return max(size // 2 if size % 2 else size - 1 for size in kernel)


def offsets_of(kernel: Kernel) -> list[tuple[int, int, int]]:
    """The offsets in canonical order."""
    starts = [-(size // 2) if size % 2 else 0 for size in kernel]
    x, y, z = (range(start, start + size) for start, size in zip(starts, kernel, strict=True))
    return list(product(x, y, z))


def find_offsets(keys: Tensor, centers: Tensor, kernel: Kernel, num_offsets: int) -> list[tuple[Tensor, Tensor]]:
    """For the first offsets, whole columns: whether each centre's neighbour exists, and its row in ``keys``."""
    if not len(keys):
        nothing = torch.zeros(len(centers), dtype=torch.int64, device=keys.device)
        return [(nothing.bool(), nothing)] * num_offsets
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, num_offsets, kernel[2]):
        column = [
            (dx << 2 * FIELD_BITS) + (dy << FIELD_BITS) + dz for dx, dy, dz in offsets_of(kernel)[start:][: kernel[2]]
        ]
        place = torch.searchsorted(keys, centers + column[0])
        for step in column:
            place = place.clamp_max(len(keys) - 1)
            hit = keys[place] == centers + step
            found.append((hit, place))
            place = place + hit.to(place.dtype)
    return found

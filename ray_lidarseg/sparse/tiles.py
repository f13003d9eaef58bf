"""The pairs of a kernel map cut into ranges of rows and blocks of few sizes: what a CPU multiplies at a time."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.sparse.products import BLOCK_ROWS, padded_rows


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


def cut(
    near: Int[Tensor, "N"],
    far: Int[Tensor, "N"],
    bounds: tuple[int, ...],
    by_row: tuple[Int[Tensor, "N"], Int[Tensor, "E"]],
    num_tiles: int,
) -> list[Tile]:
    """The tiles of one side: within an offset rows ascend on both sides, so each has one stretch of the offset's pairs.

    Args:
        near: Row of each pair on that side.
        far: Row on the other side.
        bounds: Where each offset's pairs begin, and where the last one's end.
        by_row: Pairs ordered by the row on that side, and where each row's pairs begin.
        num_tiles: Ranges of about as many rows each.
    """
    order, starts = by_row
    num_rows = len(starts) - 1
    edges = [num_rows * tile // num_tiles for tile in range(num_tiles + 1)]
    cuts = _stretches(near, bounds, edges)
    shifts: list[tuple[int, int, int, int]] = []  # offset, tile, what places are ahead of pairs, number of pairs
    tiles: list[list[Block]] = []
    for tile in range(num_tiles):
        blocks: list[Block] = []
        place = 0
        for offset, stretch in enumerate(cuts):
            shifts.append((offset, tile, place - stretch[tile], stretch[tile + 1] - stretch[tile]))
            for first in range(stretch[tile], stretch[tile + 1], BLOCK_ROWS):
                last = min(first + BLOCK_ROWS, stretch[tile + 1])
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


def _stretches(near: Tensor, bounds: tuple[int, ...], edges: list[int]) -> list[list[int]]:
    """For each offset, where the pairs of each range of rows begin, and where the last one's end."""
    if len(edges) == 2:
        return [[first, last] for first, last in pairwise(bounds)]
    inner = near.new_tensor(edges[1:-1])
    return [
        [first, *(first + torch.searchsorted(near[first:last], inner)).tolist(), last]
        for first, last in pairwise(bounds)
    ]

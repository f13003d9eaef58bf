"""Which input row meets which output row under which kernel offset: the pair lists of a sparse convolution.

Offsets of a kernel of size (kx, ky, kz) are numbered x-major, z fastest; an odd size reaches from -(k - 1)/2 to
(k - 1)/2, an even size from 0 to k - 1, as ``torch.conv3d`` with the usual padding does (cross-correlation).
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segments
from ray_lidarseg.sparse.stacked_pairs import StackedPairs, stacked
from ray_lidarseg.sparse.tiles import Tile, cut

Kernel = tuple[int, int, int]
Stride = tuple[int, int, int]
Side = Literal["in", "out"]


def reach(kernel: Kernel) -> int:
    """How far the kernel looks from a voxel, in cells."""
    return max(size // 2 if size % 2 else size - 1 for size in kernel)


def offsets_of(kernel: Kernel) -> list[tuple[int, int, int]]:
    """The offsets in canonical order."""
    starts = [-(size // 2) if size % 2 else 0 for size in kernel]
    x, y, z = (range(start, start + size) for start, size in zip(starts, kernel, strict=True))
    return list(product(x, y, z))


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

    def tiles(self, side: Side, num_tiles: int = 1) -> list[Tile]:
        """The pairs, in blocks of fixed sizes, of each of ``num_tiles`` ranges of one side's rows."""
        tiles: dict[tuple[Side, int], list[Tile]] = self.__dict__.setdefault("_tiles", {})
        if (side, num_tiles) not in tiles:
            tiles[side, num_tiles] = self._build_tiles(side, num_tiles)
        return tiles[side, num_tiles]

    def _build_tiles(self, side: Side, num_tiles: int) -> list[Tile]:
        if side == "in" and self.center is not None:  # pair (k, i, j) has the twin (K - 1 - k, j, i) at the same place
            return [tile.mirrored(self.num_offsets) for tile in self.tiles("out", num_tiles)]
        if side == "in":
            return cut(self.src, self.dst, self.bounds, self.by_input, num_tiles)
        return cut(self.dst, self.src, self.bounds, self.by_output, num_tiles)

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

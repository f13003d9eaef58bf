"""Pairs of several kernel offsets side by side, so that one batched product multiplies them all.

A GPU starts a kernel in about 10 µs, and a 3 x 3 x 3 kernel has 26 offsets besides its centre. Offsets that have about
as many pairs are stacked to one height; what the smaller ones lack is filled with places that hold no pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

LEAST_SHARE = 0.7
"""Of the pairs of a stack's largest offset that every offset in it has. Ours: of 2 scans of 32 beams a submanifold map
then makes 3 to 6 stacks and 3 to 7 % of the places are empty."""


@dataclass(frozen=True)
class Stack:
    """Offsets that are multiplied together.

    Attributes:
        offsets: Which of ``StackedPairs.offsets``.
        places: Which of its places, those of the first offset first.
    """

    offsets: slice
    places: slice

    @property
    def count(self) -> int:
        """Number of offsets."""
        return self.offsets.stop - self.offsets.start


@dataclass(frozen=True)
class StackedPairs:
    """The pairs of a kernel map at places that are as many for each offset of a stack.

    Attributes:
        stacks: Their extents, on the host.
        offsets: [U] int64 offsets that have pairs, those with the most first.
        src: [S] int32 input row at each place, 0 where there is no pair.
        dst: [S] int32 output row, ``num_out`` where there is no pair.
        by_output: Places ordered by output row, and where each row's begin.
        by_input: The same by input row.
    """

    stacks: tuple[Stack, ...]
    offsets: Int[Tensor, "U"]
    src: Int[Tensor, "S"]
    dst: Int[Tensor, "S"]
    by_output: tuple[Int[Tensor, "N"], Int[Tensor, "_"]]
    by_input: tuple[Int[Tensor, "N"], Int[Tensor, "_"]]


def stacked(
    src: Int[Tensor, "N"],
    dst: Int[Tensor, "N"],
    bounds: Sequence[int],
    num_out: int,
    by_output: tuple[Tensor, Tensor],
    by_input: tuple[Tensor, Tensor],
) -> StackedPairs:
    """Of the fields of a ``KernelMap``; the host waits for nothing.

    Args:
        src: int32 input row of each pair.
        dst: int32 output row of each pair.
        bounds: Where each offset's pairs begin.
        num_out: Rows of the output.
        by_output: Pairs ordered by output row, and where each row's begin.
        by_input: The same by input row.
    """
    counts = [end - start for start, end in pairwise(bounds)]
    used = sorted((offset for offset, count in enumerate(counts) if count), key=lambda offset: -counts[offset])
    stacks, heights = _heights([counts[offset] for offset in used])
    num_places = sum(heights)
    # of each offset: itself, its places, what its pairs' numbers are ahead of their places, where its pairs end
    table, place = [], 0
    for offset, height in zip(used, heights, strict=True):
        table.append((offset, height, bounds[offset] - place, bounds[offset + 1]))
        place += height
    columns = torch.tensor(table, dtype=torch.int32).view(-1, 4).to(src.device, non_blocking=True)
    of_place = columns.repeat_interleave(columns[:, 1], dim=0, output_size=num_places)
    places = torch.arange(num_places, dtype=torch.int32, device=src.device)
    pair = places + of_place[:, 2]
    is_pair = pair < of_place[:, 3]
    # one more pair than there are is the one of all empty places
    pair = torch.where(is_pair, pair, len(src))
    place_of = torch.empty(len(src) + 1, dtype=torch.int32, device=src.device).scatter_(0, pair.long(), places)
    pad = torch.nn.functional.pad
    return StackedPairs(
        stacks,
        columns[:, 0].long(),
        pad(src, (0, 1)).index_select(0, pair),
        pad(dst, (0, 1), value=num_out).index_select(0, pair),
        *((place_of.index_select(0, order), starts) for order, starts in (by_output, by_input)),
    )


def _heights(counts: Sequence[int]) -> tuple[tuple[Stack, ...], list[int]]:
    """Stacks of descending numbers of pairs, and how many places each offset has."""
    stacks: list[Stack] = []
    heights: list[int] = []
    first, place = 0, 0
    while first < len(counts):
        last = first
        while last < len(counts) and counts[last] >= LEAST_SHARE * counts[first]:
            last += 1
        end = place + (last - first) * counts[first]
        stacks.append(Stack(slice(first, last), slice(place, end)))
        heights += [counts[first]] * (last - first)
        first, place = last, end
    return tuple(stacks), heights

"""Overlapping masks to one index map, on the device they are on: no mask leaves it, none is run-length encoded.

Smaller masks cover larger ones, as Seal paints them ("Segment Any Point Cloud Sequences", authors' code); unlike there
0 means no mask and more than 255 masks fit.
"""

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.mask_fit import enlarge

MAX_SEGMENTS = 0xFFFF
"""What a uint16 map can tell apart beside 0."""


def index_map(
    logits: Float[Tensor, "N h w"],
    areas: Int32[Tensor, " N"],
    rows: Float[Tensor, "H h"],
    columns: Float[Tensor, "W w"],
    masks_at_once: int,
) -> Int32[Tensor, "H W"]:
    """Enlarges low-resolution masks and paints them over each other.

    Args:
        logits: Positive is inside.
        areas: Of the enlarged masks.
        rows: Enlarges rows, from ``Fit.enlarging``.
        columns: Enlarges columns.
        masks_at_once: Bounds memory.

    Returns:
        Ids 1 … n in order of falling area, 0 where no mask is. A mask that smaller ones hide fully gets no id.

    Raises:
        DataError: More masks than a uint16 can number.
    """
    painted = torch.zeros(len(rows), len(columns), dtype=torch.int32, device=logits.device)
    order = areas.argsort(descending=True, stable=True)
    for start in range(0, len(order), masks_at_once):
        some = logits[order[start : start + masks_at_once]]
        paint(painted, enlarge(some, rows, columns) > 0, first_rank=start + 1)
    return without_gaps(painted)


def paint(painted: Int32[Tensor, "H W"], masks: Bool[Tensor, "N H W"], first_rank: int) -> None:
    """Paints masks in their order over what is there, in place: the i-th leaves the rank first_rank + i."""
    ranks = torch.arange(first_rank, first_rank + len(masks), dtype=torch.int32, device=masks.device)
    torch.maximum(painted, (masks * ranks[:, None, None]).amax(dim=0), out=painted)


def without_gaps(painted: Int32[Tensor, "H W"]) -> Int32[Tensor, "H W"]:
    """Renumbers positive ids to 1 … n, keeping their order.

    Raises:
        DataError: n exceeds what a uint16 can hold.
    """
    is_seen = torch.zeros(int(painted.max()) + 1, dtype=torch.bool, device=painted.device)
    is_seen[painted.flatten().long()] = True
    is_seen[0] = False
    number = is_seen.cumsum(dim=0) * is_seen
    if int(number.max()) > MAX_SEGMENTS:
        raise DataError(
            f"{int(number.max())} masks in one image; an index map numbers {MAX_SEGMENTS}: raise the thresholds"
        )
    return number.to(torch.int32)[painted.long()]

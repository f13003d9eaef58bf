"""Which masks are worth keeping: stability, boxes, areas and duplicates.

Source: segment-anything's automatic mask generator. It measures every mask at the image's size; ours sorts out by the
low-resolution logits first, so that few masks are ever enlarged, and measures those.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from ray_lidarseg.foundation.mask_fit import enlarge


@dataclass(frozen=True)
class Measures:
    """Of masks at the image's size.

    Attributes:
        stability: [N] see ``stability_scores``.
        boxes: [N, 4] (x0, y0, x1, y1): first and last column and row inside; zeros for an empty mask.
        areas: [N] pixels.
    """

    stability: Float[Tensor, " N"]
    boxes: Float[Tensor, "N 4"]
    areas: Int32[Tensor, " N"]


def stability_scores(logits: Float[Tensor, "N h w"], offset: float) -> Float[Tensor, " N"]:
    """IoU of a mask cut at +offset with the same mask cut at -offset: near 1 where the border is sharp.

    Returns:
        In [0, 1]; 0 for a mask that is empty even at -offset.
    """
    return _count(logits > offset) / _count(logits > -offset).clamp(min=1)


def measure(
    logits: Float[Tensor, "N h w"],
    rows: Float[Tensor, "H h"],
    columns: Float[Tensor, "W w"],
    offset: float,
    masks_at_once: int,
) -> Measures:
    """Enlarges masks to the image, some at a time, and keeps only numbers.

    Args:
        logits: Low resolution; positive is inside.
        rows: Enlarges rows, from ``Fit.enlarging``.
        columns: Enlarges columns.
        offset: Of the stability score.
        masks_at_once: Bounds memory.
    """
    parts = [Measures(logits.new_zeros(0), logits.new_zeros(0, 4), logits.new_zeros(0, dtype=torch.int32))]
    for some in logits.split(masks_at_once) if len(logits) else ():
        large = enlarge(some, rows, columns)
        parts.append(Measures(stability_scores(large, offset), mask_boxes(large), _count(large > 0)))
    return Measures(
        torch.cat([part.stability for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.areas for part in parts]),
    )


def mask_boxes(logits: Float[Tensor, "N H W"]) -> Float[Tensor, "N 4"]:
    """(x0, y0, x1, y1) of where logits are positive: first and last column and row; zeros for an empty mask."""
    top, bottom = _ends(logits.amax(dim=2) > 0)
    left, right = _ends(logits.amax(dim=1) > 0)
    return torch.stack([left, top, right, bottom], dim=1).to(logits.dtype)


def distinct(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], image_idx: Int64[Tensor, " N"], max_iou: float
) -> Int64[Tensor, " n"]:
    """Positions of masks whose box no better one of the same image overlaps by more than max_iou; best first."""
    return batched_nms(boxes, scores, image_idx, max_iou)


def _count(is_inside: Bool[Tensor, "N H W"]) -> Int32[Tensor, " N"]:
    """Pixels of each mask; row by row in 16 bits first, which is three times as fast on a CPU as one sum."""
    return is_inside.sum(dim=2, dtype=torch.int16).sum(dim=1, dtype=torch.int32)


def _ends(is_inside: Bool[Tensor, "N L"]) -> tuple[Tensor, Tensor]:
    """Index of the first and of the last true value of each row; zeros where there is none."""
    marks = is_inside.byte()
    last = (marks.shape[1] - 1 - marks.flip(1).argmax(dim=1)) * is_inside.any(dim=1)
    return marks.argmax(dim=1), last

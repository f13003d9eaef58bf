"""How far two sets of masks of one image are the same: by mask, and by pixel of the index maps."""

from dataclasses import dataclass

import numpy as np

MIN_IOU = 0.9
"""Two masks are the same from here on."""


@dataclass(frozen=True)
class Agreement:
    """matched_ratio: masks of the first with a twin among the second. pixel_ratio: pixels whose segments are twins."""

    matched_ratio: float
    pixel_ratio: float


def compare(masks: list[np.ndarray], index_map: np.ndarray) -> Agreement:
    """Overlapping bool masks [H, W] of the stock generator against an index map: first painted, then compared.

    Masks that smaller ones hide are in no map, so segments of the two maps are compared, not raw masks.
    """
    painted = paint_slowly(masks, index_map.shape)
    count = int(painted.max()) + 1, int(index_map.max()) + 1
    overlap = np.bincount(
        painted.ravel() * count[1] + index_map.ravel().astype(np.int64), minlength=count[0] * count[1]
    )
    overlap = overlap.reshape(count).astype(np.float64)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    is_twin = overlap / np.maximum(union, 1) >= MIN_IOU
    is_twin[0, :], is_twin[:, 0], is_twin[0, 0] = False, False, True
    is_matched = is_twin[1:].any(axis=1)
    present = overlap[1:].sum(axis=1) > 0
    matched = is_matched[present].mean() if present.any() else float(count[1] == 1)
    return Agreement(float(matched), float((overlap * is_twin).sum() / overlap.sum()))


def paint_slowly(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Index map by painting one mask after another, largest first; ids 1 … as they are painted, int64."""
    painted = np.zeros(size, dtype=np.int64)
    for rank, mask in enumerate(sorted(masks, key=lambda mask: -int(mask.sum())), start=1):
        painted[mask] = rank
    return painted

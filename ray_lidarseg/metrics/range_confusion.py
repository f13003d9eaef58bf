"""The confusion matrix by distance from the sensor: one tensor, whose sum over ranges is the matrix of all points."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ray_lidarseg.metrics.confusion import Confusion, pair_counts

RANGE_EDGES_M = (10.0, 20.0, 30.0, 50.0)
"""Where one range ends and the next begins; the last has no end. Ours, of the width most papers take."""


class RangeConfusion:
    """How often class c was predicted as class d, in each range.

    Args:
        num_classes: C.

    Attributes:
        counts: int64 [K, C, C], K one more than there are edges; points at a range that is not a number count in the
            last, so that the sum misses none.
    """

    counts: Int[Tensor, "K C C"]

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(len(RANGE_EDGES_M) + 1, num_classes, num_classes, dtype=torch.int64)

    def add(
        self,
        truth: Shaped[np.ndarray, "P"],
        prediction: Shaped[np.ndarray, "P"],
        range_m: Float[np.ndarray, "P"],
    ) -> None:
        """Counts points; a point on an edge belongs to the farther range.

        Raises:
            ValueError: See ``Confusion.add``.
        """
        place = np.searchsorted(RANGE_EDGES_M, range_m, side="right")
        self.counts += pair_counts(truth, prediction, self.counts.shape[1], place, len(self.counts))

    def merge(self, other: "RangeConfusion") -> "RangeConfusion":
        """Adds the counts of ``other`` to this one, and returns this one.

        Raises:
            ValueError: Different numbers of classes or ranges.
        """
        if self.counts.shape != other.counts.shape:
            shapes = " and ".join(str(list(part.counts.shape)) for part in (self, other))
            raise ValueError(f"RangeConfusion: expected counts of one shape, got {shapes}")
        self.counts += other.counts
        return self

    def total(self) -> Confusion:
        """The matrix of all points."""
        return Confusion.from_list(self.counts.sum(dim=0).tolist())

    def parts(self) -> list[tuple[str, Confusion]]:
        """The matrix of each range under its name: ``0-10 m`` … ``50 m-``."""
        starts = [f"{edge:g}" for edge in (0.0, *RANGE_EDGES_M)]
        names = [f"{start}-{end} m" for start, end in pairwise(starts)] + [f"{starts[-1]} m-"]
        return [(name, Confusion.from_list(part.tolist())) for name, part in zip(names, self.counts, strict=True)]

    def as_list(self) -> list[list[list[int]]]:
        """The counts as plain integers, for JSON."""
        return self.counts.tolist()

    @staticmethod
    def from_list(counts: Sequence[Sequence[Sequence[int]]]) -> "RangeConfusion":
        """The inverse of ``as_list``.

        Raises:
            ValueError: Other ranges than these.
        """
        made = RangeConfusion(len(counts[0]))
        given = RangeConfusion(len(counts[0]))
        given.counts = torch.tensor(counts, dtype=torch.int64)
        return made.merge(given)

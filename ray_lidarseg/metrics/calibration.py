"""Whether a model is as often right as it says: expected calibration error from exact, mergeable counts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from ray_lidarseg.types import IGNORE

NUM_BINS = 15
"""Guo et al. (ICML 2017)."""

_UNIT = 1 << 20  # confidences are summed as whole parts of it: the order of the points cannot change a sum


class Calibration:
    """Points, right points and confidence in each of 15 equal bins of confidence.

    Points whose truth is IGNORE, and those no model saw (confidence 0), are not counted.

    Attributes:
        counts: int64 [3, 15]: points, right ones, sum of the confidence in units of 2^-20.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((3, NUM_BINS), np.int64)

    def add(
        self,
        truth: Shaped[np.ndarray, "P"],
        prediction: Shaped[np.ndarray, "P"],
        confidence: Float[np.ndarray, "P"],
    ) -> None:
        """Counts points."""
        is_counted = (truth != IGNORE) & (confidence > 0)
        sure = confidence[is_counted].astype(np.float64)
        place = np.minimum((sure * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        is_right = truth[is_counted] == prediction[is_counted]
        parts = np.round(sure * _UNIT)
        self.counts[0] += np.bincount(place, minlength=NUM_BINS)
        self.counts[1] += np.bincount(place[is_right], minlength=NUM_BINS)
        self.counts[2] += np.bincount(place, parts, NUM_BINS).astype(np.int64)  # whole numbers far below 2^53

    def merge(self, other: "Calibration") -> "Calibration":
        """Adds the counts of ``other`` to these, and returns these."""
        self.counts += other.counts
        return self

    def error(self) -> float:
        """ECE: the mean over points of ``|accuracy - confidence|`` of their bin, in [0, 1]; NaN without points.

        Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
        """
        points = self.counts[0].sum()
        gaps = np.abs(self.counts[1] - self.counts[2] / _UNIT)
        return float(gaps.sum() / points) if points else float("nan")

    def curve(self) -> list[tuple[int, float | None, float | None]]:
        """Points, mean confidence and accuracy of each bin, None where it is empty."""
        return [
            (int(points), total / _UNIT / points if points else None, right / points if points else None)
            for points, right, total in self.counts.T.tolist()
        ]

    def as_list(self) -> list[list[int]]:
        """The counts as plain integers, for JSON."""
        return self.counts.tolist()

    @staticmethod
    def from_list(counts: Sequence[Sequence[int]]) -> "Calibration":
        """The inverse of ``as_list``.

        Raises:
            ValueError: Another number of bins.
        """
        made = Calibration()
        given = np.asarray(counts, np.int64)
        if given.shape != made.counts.shape:
            raise ValueError(f"Calibration.from_list: expected shape {made.counts.shape}, got {given.shape}")
        made.counts = given
        return made

"""The confusion matrix every score comes from: exact integer counts that merge over scans, workers and machines."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ray_lidarseg.types import IGNORE


class Confusion:
    """How often class c (row) was predicted as class d (column).

    Where the truth is IGNORE nothing is counted. Elsewhere a prediction must be a class: an id outside 0 … C-1 raises
    instead of landing in another class's count, as happens where ``truth · C + prediction`` is binned unchecked.

    Args:
        num_classes: C.

    Attributes:
        counts: int64 [C, C] on the CPU, rows truth, columns prediction.
    """

    counts: Int[Tensor, "C C"]

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, truth: Shaped[Tensor | np.ndarray, "P"], prediction: Shaped[Tensor | np.ndarray, "P"]) -> None:
        """Counts points (or cells); both arrays are integer class ids on the same device.

        Raises:
            ValueError: A truth that is neither a class nor IGNORE, or a prediction of a counted point that is no class.
        """
        self.counts += pair_counts(truth, prediction, self.num_classes)[0]

    def merge(self, other: "Confusion") -> "Confusion":
        """Adds the counts of ``other`` to this one, and returns this one.

        Raises:
            ValueError: Different numbers of classes.
        """
        if self.num_classes != other.num_classes:
            raise ValueError(f"Confusion of {self.num_classes} classes cannot take one of {other.num_classes}")
        self.counts += other.counts
        return self

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.num_classes).merge(self).merge(other)

    def all_reduce(self) -> None:
        """Sums the counts over all ranks, in place; nothing happens outside torch.distributed.

        A collective: every rank must call it.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        counts = self.counts.to(device)
        dist.all_reduce(counts)
        self.counts = counts.cpu()

    def iou(self) -> Float[Tensor, "C"]:
        """[C] float64 ``TP / (TP + FP + FN)``, NaN where a class is in neither truth nor prediction."""
        counts = self.counts.double()
        hits = counts.diagonal()
        return hits / (counts.sum(dim=0) + counts.sum(dim=1) - hits)

    def miou(self, absent: Literal["skip", "zero"] = "skip") -> float:
        """The mean IoU over classes.

        Args:
            absent: A class in neither truth nor prediction is left out of the mean (``skip``: nuScenes-lidarseg) or
                counts as 0 (``zero``: SemanticKITTI).

        Returns:
            In [0, 1]; NaN where ``skip`` leaves no class.
        """
        iou = self.iou()
        return float(iou.nanmean() if absent == "skip" else iou.nan_to_num(0.0).mean())

    def accuracy(self) -> float:
        """Share of the counted points that are right; NaN where nothing was counted."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum())

    def as_list(self) -> list[list[int]]:
        """The counts as plain integers, for JSON."""
        return self.counts.tolist()

    @staticmethod
    def from_list(rows: Sequence[Sequence[int]]) -> "Confusion":
        """The inverse of ``as_list``.

        Raises:
            ValueError: The rows are not a square.
        """
        confusion = Confusion(len(rows))
        counts = torch.tensor(rows, dtype=torch.int64)
        if counts.shape != confusion.counts.shape:
            raise ValueError(f"Confusion.from_list: expected a square of counts, got shape {tuple(counts.shape)}")
        confusion.counts = counts
        return confusion


def pair_counts(
    truth: Shaped[Tensor | np.ndarray, "P"],
    prediction: Shaped[Tensor | np.ndarray, "P"],
    num_classes: int,
    group: Shaped[Tensor | np.ndarray, "P"] | None = None,
    num_groups: int = 1,
) -> Int[Tensor, "G C C"]:
    """How often each pair of classes occurs in each group of points, on the CPU; without groups there is one.

    Raises:
        ValueError: See ``Confusion.add``.
    """
    truth, prediction = _ids(truth), _ids(prediction)
    is_counted = truth != IGNORE
    truth, prediction = truth[is_counted], prediction[is_counted]
    _check("truth", truth, num_classes)
    _check("prediction", prediction, num_classes)
    pair = truth * num_classes + prediction
    if group is not None:
        pair = pair + _ids(group)[is_counted] * num_classes**2
    counts = torch.bincount(pair, minlength=num_groups * num_classes**2)
    return counts.view(num_groups, num_classes, num_classes).cpu()


def _check(what: str, ids: Int[Tensor, "P"], num_classes: int) -> None:
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < num_classes):
        wrong = ids[(ids < 0) | (ids >= num_classes)].unique().tolist()
        raise ValueError(
            f"Confusion.add: {what} must be a class in 0..{num_classes - 1} at every point whose truth is not "
            f"IGNORE ({IGNORE}), got {wrong[:8]}; map raw ids with the taxonomy first"
        )


def _ids(values: Tensor | np.ndarray) -> Tensor:
    """Class ids as int64; an array is copied, since shards hand out read-only ones."""
    return values.long() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.int64))

"""What a distilled network knows without a label: classes by the nearest word, and the structure of its features."""

import io
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.metrics.structure import FeatureReservoir
from ray_lidarseg.models.word_classifier import Words

SOURCES = ("points", "images", "ensemble")
"""Whose feature decides: the network's; the image teacher's, at points a camera sees; of both the surer one."""


class LanguageScores:
    """Counts and features of labelled points, which merge over frames and workers.

    A point that a reject word wins is predicted as none of the classes: missed, and no false positive anywhere.

    Args:
        num_classes: C.
        per_frame: Features kept of each class and frame; 0 keeps up to ``per_class``.
        per_class: Features kept of each class in all.
    """

    def __init__(self, num_classes: int, per_frame: int = 0, per_class: int = 5000) -> None:
        self.num_classes, self.per_frame = num_classes, per_frame
        self.confusions = {name: Confusion(num_classes + 1) for name in SOURCES}
        self.reservoir = FeatureReservoir(num_classes, per_class)

    def add(
        self,
        frame_id: str,
        labels: Int[Tensor, "P"],
        points: Float[Tensor, "P F"],
        images: Float[Tensor, "P F"],
        is_paired: Bool[Tensor, "P"],
        words: Words,
    ) -> None:
        """Counts one frame.

        Args:
            frame_id: Its name.
            labels: [P] truth, IGNORE where unknown.
            points: [P, F] unit features of the network.
            images: [P, F] unit features of the images at the points, zeros where no camera sees them.
            is_paired: [P] whether one does.
            words: Of the classes.
        """
        of_points, of_images = (_named(features, words) for features in (points, images))
        self.confusions["points"].add(labels, of_points[0])
        self.confusions["images"].add(labels[is_paired], of_images[0][is_paired])
        is_surer = is_paired & (of_images[1] > of_points[1])
        self.confusions["ensemble"].add(labels, torch.where(is_surer, of_images[0], of_points[0]))
        frame = FeatureReservoir(self.num_classes, self.per_frame or self.reservoir.per_class)
        frame.add(frame_id, points[is_paired], images[is_paired], labels[is_paired])
        self.reservoir.merge(frame)

    def merge(self, other: "LanguageScores") -> "LanguageScores":
        """Takes the counts and features of the other, and returns this one."""
        for name, confusion in self.confusions.items():
            confusion.merge(other.confusions[name])
        self.reservoir.merge(other.reservoir)
        return self

    def to_bytes(self) -> bytes:
        """For another process."""
        sink = io.BytesIO()
        torch.save(({name: part.counts for name, part in self.confusions.items()}, self.reservoir.state()), sink)
        return sink.getvalue()

    def merge_bytes(self, data: bytes) -> "LanguageScores":
        """``merge`` with what ``to_bytes`` of another process gave."""
        counts, state = torch.load(io.BytesIO(data), weights_only=True)
        other = LanguageScores(self.num_classes, self.per_frame, self.reservoir.per_class)
        for name, confusion in other.confusions.items():
            confusion.counts = counts[name]
        other.reservoir.load(state)
        return self.merge(other)

    def result(self, absent: Literal["skip", "zero"]) -> dict[str, Any]:
        """What `evaluate` writes: mIoU and IoU by source, share of points rejected, and the structure."""
        found = self.reservoir.structure()
        structure = {**asdict(found), "structural_gap": found.structural_gap} if found else None
        return {"zero_shot": {name: self._scores(name, absent) for name in SOURCES}, "structure": structure}

    def _scores(self, name: str, absent: Literal["skip", "zero"]) -> dict[str, Any]:
        confusion = self.confusions[name]
        iou = confusion.iou()[: self.num_classes]
        total = int(confusion.counts.sum())
        mean = iou.nanmean() if absent == "skip" else iou.nan_to_num(0.0).mean()
        return {
            "miou_ratio": None if mean.isnan() else float(mean),
            "iou_ratio": [None if np.isnan(value) else value for value in iou.tolist()],
            "rejected_ratio": float(confusion.counts[:, -1].sum()) / max(total, 1),
            "points": total,
        }

    def plane(self, most: int = 2000) -> list[list[int | float]]:
        """The kept features on the two main axes of the teacher's (PCA): for a picture.

        Returns:
            Rows of class id, x and y of the point's feature, x and y of its image's; evenly spread over the sample.
        """
        points, images, labels = self.reservoir.sample()
        if len(labels) < 3:
            return []
        chosen = torch.linspace(0, len(labels) - 1, min(most, len(labels))).long()
        centre = images.mean(dim=0)
        _, _, axes = torch.linalg.svd(images[chosen] - centre, full_matrices=False)
        flat = [(part[chosen] - centre) @ axes[:2].T for part in (points, images)]
        rows = torch.cat([labels[chosen, None].float(), *flat], dim=1)
        return [[int(row[0]), *(round(value, 4) for value in row[1:])] for row in rows.tolist()]


def _named(features: Float[Tensor, "P F"], words: Words) -> tuple[Int[Tensor, "P"], Float[Tensor, "P"]]:
    """The class of each feature, C where a reject word is nearer, and the cosine of the nearest word of a class."""
    cosine, label = words(functional.normalize(features.float(), dim=1)).max(dim=1)
    return torch.where(words.is_rejected(features.float()), words.num_classes, label), cosine

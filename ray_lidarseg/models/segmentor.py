"""The contract of every model: packed points in, per-point logits and features out; voxels and pixels stay inside."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ray_lidarseg.sample import PointBatch


@dataclass(frozen=True)
class Cells:
    """A batch in a model's own representation: occupied voxels, or occupied pixels of range images.

    Built without gradients from geometry alone, so a student and a teacher of the same configuration share one.

    Attributes:
        point_cell: [P] cell of each point, in [0, V).
        targets: [V] class id of each cell from the batch's labels, IGNORE where no labelled point decides.
        geometry: What the model needs besides (kernel maps, pixel indices, input features).
        point_targets: [P] class id of each point, of models that are trained on their points' scores, too; else None.
    """

    point_cell: Int[Tensor, "P"]
    targets: Int[Tensor, "V"]
    geometry: Any
    point_targets: Int[Tensor, "P"] | None = None


@dataclass(frozen=True)
class Output:
    """What a model says of a batch.

    Attributes:
        point_logits: [P, C] unnormalised class scores of each point.
        point_features: [P, F] features before the classifier.
        cell_logits: [V, C] scores at representation level; what the published losses are computed on.
        cells: The representation the scores belong to.
    """

    point_logits: Float[Tensor, "P C"]
    point_features: Float[Tensor, "P F"]
    cell_logits: Float[Tensor, "V C"]
    cells: Cells


class Segmentor(nn.Module, ABC):
    """Representation + backbone + head.

    Attributes:
        num_classes: C.
        feature_dim: F, the width of ``point_features``.
    """

    num_classes: int
    feature_dim: int

    @abstractmethod
    def represent(self, batch: PointBatch) -> Cells:
        """Maps points to cells. Every point gets a cell, also points outside the range (clamped, never dropped)."""

    @abstractmethod
    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """Scores every point; ``cells`` may be what ``represent`` gave for this very batch. An empty batch is legal."""

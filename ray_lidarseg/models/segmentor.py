"""The contract of every model: packed points in, per-point logits and features out; voxels and pixels stay inside."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.sparse.volume import Volume


@dataclass(frozen=True)
class Cells:
    """A batch in a model's own representation: occupied voxels, or occupied pixels of range images.

    Built without gradients from geometry alone, so a student and a teacher of the same configuration share one.

    Attributes:
        point_cell: [P] cell of each point, in [0, V).
        targets: [V] class id of each cell from the batch's labels, IGNORE where no labelled point decides.
        geometry: What the model needs besides (kernel maps, pixel indices, input features).
        point_targets: [P] class id of each point, of models that are trained on their points' scores, too; else None.
        volume: Where the cells lie in space; None where they are pixels of an image.
    """

    point_cell: Int[Tensor, "P"]
    targets: Int[Tensor, "V"]
    geometry: Any
    point_targets: Int[Tensor, "P"] | None = None
    volume: Volume | None = None

    @property
    def in_space(self) -> Volume:
        """Where the cells lie in space.

        Raises:
            RecipeError: They do not: the model sees scans as images.
        """
        if self.volume is None:
            raise RecipeError(
                "only features of cells in space can be sampled at any position, and this model's cells are pixels of "
                "an image: set model.name to cylinder3d, minkunet or spvcnn"
            )
        return self.volume


@dataclass(frozen=True)
class Output:
    """What a model says of a batch.

    Attributes:
        point_logits: [P, C] unnormalised class scores of each point.
        point_features: [P, F] features before the classifier.
        cell_logits: [V, C] scores at representation level; what the published losses are computed on.
        cells: The representation the scores belong to.
        make_cell_features: Gives ``cell_features``; called when they are asked for, so that nobody else pays.
    """

    point_logits: Float[Tensor, "P C"]
    point_features: Float[Tensor, "P F"]
    cell_logits: Float[Tensor, "V C"]
    cells: Cells
    make_cell_features: Callable[[], Float[Tensor, "V G"]]

    @cached_property
    def cell_features(self) -> Float[Tensor, "V G"]:
        """[V, G] features of the cells before the classifier, G the model's ``cell_feature_dim``."""
        return self.make_cell_features()

    def sample(self, points: Float[Tensor, "S _"], scan_idx: Int[Tensor, "S"]) -> Float[Tensor, "S G"]:
        """Cell features at any position of the sensor frames, differentiable: see ``Volume``.

        Trilinear between cell centres, empty space counts as zero, azimuth wraps on cylinders, border cells that hold
        points from outside the grid are left out.

        Args:
            points: [S, 3], x, y, z first, metres.
            scan_idx: [S] scan of the batch each position belongs to.

        Raises:
            RecipeError: The model sees scans as images.
        """
        return self.cells.in_space.sample(self.cell_features, points, scan_idx)


class Segmentor(nn.Module, ABC):
    """Representation + backbone + head.

    Attributes:
        num_classes: C.
        feature_dim: F, the width of ``point_features``.
        is_spatial: Whether cells lie in space, so that ``Output.sample`` works; else they are pixels of an image.
        head_parts: Names of the submodules that turn features into class scores; all others are the backbone.
        foreseen: Batches of a step whose cells the loader has computed, with them (``training.host_geometry``).
        is_compiled: Whether its dense parts are (``models.dense_parts``).
    """

    num_classes: int
    feature_dim: int
    is_spatial: bool = False
    head_parts: tuple[str, ...] = ("head",)
    foreseen: Sequence[tuple[PointBatch, Cells]] = ()
    is_compiled: bool = False
    _is_backbone_frozen: bool = False

    def is_of_head(self, name: str) -> bool:
        """Whether a parameter or buffer of that name belongs to the head."""
        return any(name == part or name.startswith(f"{part}.") for part in self.head_parts)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters but those of the head."""
        return [parameter for name, parameter in self.named_parameters() if not self.is_of_head(name)]

    def freeze_backbone(self) -> None:
        """From now on only the head learns: the backbone keeps weights and batch-norm statistics, and drops nothing."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_of_head(name))
        self._is_backbone_frozen = True
        self.eval()

    def train(self, mode: bool = True) -> "Segmentor":
        """Evaluation mode for good where the backbone is frozen; heads compute alike in both modes."""
        return super().train(mode and not self._is_backbone_frozen)

    @property
    def cell_feature_dim(self) -> int:
        """G, the width of ``Output.cell_features``; F unless the model says otherwise."""
        return self.feature_dim

    def cells_of(self, batch: PointBatch) -> Cells:
        """``represent`` of a batch, or what is foreseen for this very one."""
        return next((cells for known, cells in self.foreseen if known is batch), None) or self.represent(batch)

    @abstractmethod
    def represent(self, batch: PointBatch) -> Cells:
        """Maps points to cells. Every point gets a cell, also points outside the range (clamped, never dropped)."""

    @abstractmethod
    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """Scores every point; ``cells`` may be what ``represent`` gave for this very batch. An empty batch is legal."""

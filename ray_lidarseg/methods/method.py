"""The contract of every training method: it owns its models and returns losses by name; the loop never asks which."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.ray_bundles import RayRequest
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


@dataclass(frozen=True)
class Losses:
    """Named scalars of one step.

    Attributes:
        terms: Weighted loss terms with gradient; their sum is optimised.
        stats: Detached scalars worth a log line (pseudo-label keep ratio, …), each with its unit in its name.
    """

    terms: dict[str, Float[Tensor, ""]]
    stats: dict[str, Float[Tensor, ""]] = field(default_factory=dict)

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of all terms: what is optimised."""
        return torch.stack(list(self.terms.values())).sum()


class Method(nn.Module, ABC):
    """One paper. Registers its models as submodules, so its ``state_dict`` is all the state a checkpoint needs.

    A frozen teacher is a registered submodule with ``requires_grad=False``: DDP leaves it alone. All forwards of a
    step happen inside one call, so that DDP sees one forward and one backward. Every trainable parameter takes part in
    every step (multiply by zero where a term is empty): ranks must agree on which gradients exist.
    """

    student: Segmentor

    @abstractmethod
    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """One forward over one micro-batch.

        Args:
            labelled: Augmented scans with labels.
            unlabelled: Augmented scans whose labels are all IGNORE; has no scans where the method uses none.
            progress: Share of the schedule done, in [0, 1).
            generator: CPU generator, seeded by (seed, step, rank, micro-batch): the only source of randomness.
        """

    def forward(
        self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator
    ) -> Losses:
        """``step``, under the name DDP calls."""
        return self.step(labelled, unlabelled, progress, generator)

    def after_step(self, progress: float) -> None:
        """Called once after each optimiser step (moves the EMA teacher). Nothing by default."""

    def pseudo_labels(self, unlabelled: PointBatch) -> Int[Tensor, "P"] | None:
        """The labels the method would train on if these scans came in the next step, IGNORE where none; for diagnosis.

        Leaves every state but running batch-norm statistics as it is; None (default) where a method makes no labels.
        """
        return None

    def segmentors(self) -> dict[str, Segmentor]:
        """The models worth evaluating, by name; ``deployed`` names the one to deploy."""
        return {"student": self.student}

    @property
    def deployed(self) -> str:
        """The name in ``segmentors`` of the model to deploy: what predicts, and what a run is judged by."""
        return cast(schema.MethodSection, self.recipe).deployed  # every method keeps its section under this name

    @property
    def deployed_model(self) -> Segmentor:
        """The model of that name."""
        return self.segmentors()[self.deployed]

    def classifiers(self) -> dict[str, Segmentor]:
        """The models whose class scores mean something, by name: what is evaluated and predicts. Empty where none."""
        return self.segmentors()

    @property
    def classifier(self) -> Segmentor:
        """The one to deploy of ``classifiers``.

        Raises:
            RunError: The method has none.
        """
        models = self.classifiers()
        if self.deployed not in models:
            raise RunError(
                "the network was distilled from features without text, so it knows no class: start a run from it "
                "(start.run) that learns from labels, or give its classes embeddings with `ray-lidarseg prototypes`"
            )
        return models[self.deployed]

    def read_words(self, words: TextEmbeddings | None) -> None:
        """Told, before the first step, the words of the classes in the layer the run reads. Nothing by default."""

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the loop has to read the unlabelled stream at all."""
        return True

    @property
    def extras(self) -> frozenset[str]:
        """Names (``types.IMAGE_FEATURES``, …) of the extras and segments both streams must bring. None by default."""
        return frozenset()

    @property
    def rays(self) -> RayRequest | None:
        """Rays both streams must bring (``PointBatch.rays``). None by default."""
        return None


def refuse_idle_teacher(recipe: schema.WithTeacher, runs: bool, because: str) -> None:
    """Refuses a teacher that would gather its own batch-norm statistics, but never runs.

    Args:
        recipe: The method's settings.
        runs: Whether the teacher ever runs.
        because: The settings why it does not.

    Raises:
        RecipeError: See above.
    """
    if recipe.ema_buffers == "own" and not runs:
        raise RecipeError(
            f"method {recipe.name}: with {because} the teacher never runs, so with ema_buffers=own its batch-norm "
            "statistics would stay those of step 0; set ema_buffers to average or copy"
        )

"""Pieces of the objective that several methods share; no method itself."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.losses.consistency import consistency
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.models.segmentor import Output
from ray_lidarseg.recipe import schema


def segmentation_terms(
    output: Output, recipe: schema.Supervised, prefix: str = "", weight: float = 1.0
) -> dict[str, Float[Tensor, ""]]:
    """Cross entropy and Lovász-softmax of the cells against their targets, weighted by the recipe and ``weight``.

    The cross entropy is always there, so every parameter takes part; a Lovász weight of 0 leaves that term out. A model
    that refines points (``Cells.point_targets``) has a cross entropy of the points beside, with the same weight (ours).

    Source: LaserMix authors' code, which computes both on cells, not on points.
    """
    logits, targets = output.cell_logits, output.cells.targets
    over_all = recipe.cross_entropy_over == "all"
    of_cells = cross_entropy(logits, targets, over_all)
    terms = {f"{prefix}cross_entropy": weight * recipe.cross_entropy_weight * of_cells}
    if recipe.lovasz_weight:
        terms[f"{prefix}lovasz"] = weight * recipe.lovasz_weight * lovasz_softmax(logits, targets)
    if output.cells.point_targets is not None:
        of_points = cross_entropy(output.point_logits, output.cells.point_targets, over_all)
        terms[f"{prefix}point_cross_entropy"] = weight * recipe.cross_entropy_weight * of_points
    return terms


def agreement(students: Sequence[Output], teachers: Sequence[Output]) -> Float[Tensor, ""]:
    """Consistency over the cells of several batches, each cell counting alike; no gradient to the teachers.

    Args:
        students: What the student says of each batch.
        teachers: What the teacher says of the same cells.

    Source: LaserMix authors' code, which takes the mean over the voxels of both streams.
    """
    return consistency(
        torch.cat([output.cell_logits for output in students]), torch.cat([output.cell_logits for output in teachers])
    )


def ramp_up(progress: float, ramp_up_ratio: float) -> float:
    """Weight of the unlabelled terms: ``exp(-5 (1 - progress / ramp_up_ratio)²)`` until ``ramp_up_ratio``, then 1.

    Args:
        progress: Share of the schedule done, in [0, 1).
        ramp_up_ratio: Share of the schedule over which the weight grows; 0 is no ramp, as in LaserMix.

    Source: Mean Teacher (Tarvainen & Valpola, NeurIPS 2017), appendix B.
    """
    if progress >= ramp_up_ratio:
        return 1.0
    return math.exp(-5 * (1 - progress / ramp_up_ratio) ** 2)

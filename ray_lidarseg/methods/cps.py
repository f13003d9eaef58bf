"""CPS: two students that started differently, each learning from the hard labels of the other."""

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.methods.objective import ramp_up, segmentation_terms
from ray_lidarseg.models.segmentor import Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


class CPS(Method):
    """``L = L_sup(f_1) + L_sup(f_2) + λ (CE(f_1, argmax f_2) + CE(f_2, argmax f_1))``.

    The cross terms are over all cells of the labelled and the unlabelled scans, without a threshold; hard labels have
    no gradient. Both students see the same augmented cloud.

    Source: Cross Pseudo Supervision (Chen et al., CVPR 2021), without its CutMix variant. One cloud and cells instead
    of pixels are ours.

    Args:
        student: The first student.
        second: The second student, same architecture, other initial weights.
        recipe: Weights.
    """

    def __init__(self, student: Segmentor, second: Segmentor, recipe: schema.CPS) -> None:
        super().__init__()
        self.student, self.second, self.recipe = student, second, recipe

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``."""
        # L_sup of both students on the labelled scans (x_l, y_l)
        first_l = self.student(labelled)
        second_l = self.second(labelled, first_l.cells)
        terms = segmentation_terms(first_l, self.recipe) | segmentation_terms(second_l, self.recipe, "second_")
        if not self.recipe.cross_weight:
            return Losses(terms)
        # L_cps: each against the other's classes on x_l and x_u, over the same cells
        first_u = self.student(unlabelled)
        second_u = self.second(unlabelled, first_u.cells)
        first, second = _cell_logits(first_l, first_u), _cell_logits(second_l, second_u)
        weight = self.recipe.cross_weight * ramp_up(progress, self.recipe.ramp_up_ratio)
        terms["cross"] = weight * cross_entropy(first, second.argmax(dim=1))
        terms["second_cross"] = weight * cross_entropy(second, first.argmax(dim=1))
        agree = (first.argmax(dim=1) == second.argmax(dim=1)).float()
        return Losses(terms, {"agreement_ratio": agree.sum() / max(len(agree), 1)})

    def segmentors(self) -> dict[str, Segmentor]:
        """Both students; the first is the one to deploy, as in the authors' code."""
        return {"student": self.student, "second": self.second}

    @property
    def uses_unlabelled(self) -> bool:
        """Only where they have a weight."""
        return bool(self.recipe.cross_weight)


def _cell_logits(*outputs: Output) -> Float[Tensor, "V C"]:
    return torch.cat([output.cell_logits for output in outputs])

"""Supervised training on the labelled scans only: the baseline every other method has to beat ("sup-only")."""

import torch

from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.methods.objective import segmentation_terms
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


class Supervised(Method):
    """``L = L_sup``: cross entropy and Lovász-softmax on the cells of the labelled scans.

    Source: LaserMix (CVPR 2023), the "sup-only" rows; losses as in the authors' code.

    Args:
        student: The model to train.
        recipe: Weights of the losses.
    """

    def __init__(self, student: Segmentor, recipe: schema.Supervised) -> None:
        super().__init__()
        self.student, self.recipe = student, recipe

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; the unlabelled scans are not looked at."""
        return Losses(segmentation_terms(self.student(labelled), self.recipe))

    @property
    def uses_unlabelled(self) -> bool:
        """No."""
        return False

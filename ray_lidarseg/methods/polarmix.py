"""PolarMix on the semi-supervised loop: sectors of azimuth exchanged and instances pasted, instead of laser bands."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.polar_mix import polar_mix
from ray_lidarseg.methods.method import Losses, Method, refuse_idle_teacher
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.methods.pseudo_label import PseudoLabeller, keep_ratio
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


class PolarMix(Method):
    """``L = L_sup + λ_mix L_polar + λ_mt L_mt``: LaserMix's objective with another way of mixing.

    ``partner=unlabelled``: labelled scan i is mixed with unlabelled scan i, which carries the teacher's confident
    labels. ``partner=labelled``: with the next labelled scan of the batch, the augmentation of the paper; with
    ``consistency_weight=0`` that is supervised training. A scan alone in its batch is mixed with itself: the sector
    changes nothing, its instances are pasted at other angles.

    Source: PolarMix (Xiao et al., NeurIPS 2022) for the mixing. The loop around it is LaserMix's, so that the two
    differ in the mixing alone; L_sup on the scans as they are, beside the mixed ones, is ours too.

    Args:
        student: The model to train; the teacher starts as its copy.
        recipe: Weights, confidence, sector, EMA rules.
        instance_classes: Class ids of what is pasted.

    Raises:
        RecipeError: An instance class the model does not have, or a teacher that would gather its own batch-norm
            statistics, but never run.
    """

    def __init__(self, student: Segmentor, recipe: schema.PolarMix, instance_classes: Sequence[int]) -> None:
        super().__init__()
        unknown = [number for number in instance_classes if number >= student.num_classes]
        if unknown:
            raise RecipeError(
                f"method.instance_classes {unknown}: expected class ids below {student.num_classes}, "
                "the number of classes of this data set"
            )
        because = "partner=labelled (or mix_weight=0) and consistency_weight=0"
        refuse_idle_teacher(recipe, _runs_teacher(recipe), because)
        self.student, self.recipe, self.instance_classes = student, recipe, tuple(instance_classes)
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)
        self.labeller = PseudoLabeller(student.num_classes, recipe)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; with unlabelled partners, as many of them as labelled scans."""
        recipe, unlabelled_weight = self.recipe, ramp_up(progress, self.recipe.ramp_up_ratio)
        # L_sup: student on the labelled scans (x_l, y_l)
        student_l = self.student(labelled)
        terms, stats = segmentation_terms(student_l, recipe), {}
        if self.uses_unlabelled:
            cells_u = self.student.cells_of(unlabelled)
            teacher_u = self.teacher(unlabelled, cells_u)
        # L_polar: student on both mixed scans of each pair, labels mixed alike
        if recipe.mix_weight:
            partners, weight = _next_scans(labelled), recipe.mix_weight
            if self._labels_partners:
                pseudo_u = self.labeller(teacher_u.point_logits, labelled.labels, progress)
                stats["pseudo_keep_ratio"] = keep_ratio(pseudo_u)
                partners, weight = unlabelled.with_labels(pseudo_u), weight * unlabelled_weight
            terms |= segmentation_terms(
                self.student(self._mixed(labelled, partners, generator)), recipe, "mix_", weight
            )
        # L_mt: student against teacher on x_l and x_u, over the same cells
        if recipe.consistency_weight:
            student_u, teacher_l = self.student(unlabelled, cells_u), self.teacher(labelled, student_l.cells)
            weight = recipe.consistency_weight * unlabelled_weight
            terms["consistency"] = weight * agreement([student_l, student_u], [teacher_l, teacher_u])
        return Losses(terms, stats)

    def _mixed(self, scans: PointBatch, partners: PointBatch, generator: torch.Generator) -> PointBatch:
        sector_rad = math.radians(self.recipe.sector_deg)
        ratios = self.recipe.swap_ratio, self.recipe.paste_ratio
        return polar_mix(scans, partners, self.instance_classes, sector_rad, *ratios, generator)

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student."""
        self.teacher.update(self.student)
        if self._labels_partners:
            self.labeller.after_step()

    def pseudo_labels(self, unlabelled: PointBatch) -> Int[Tensor, "P"] | None:
        """See ``Method.pseudo_labels``; none where partners are labelled, or the rule has no statistics."""
        return self.labeller.preview(self.teacher(unlabelled).point_logits) if self._labels_partners else None

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher; the teacher is the one to deploy, as with LaserMix."""
        return {"student": self.student, "teacher": self.teacher.model}

    @property
    def _labels_partners(self) -> bool:
        return bool(self.recipe.mix_weight and self.recipe.partner == "unlabelled")

    @property
    def uses_unlabelled(self) -> bool:
        """Unless partners are labelled and there is no consistency."""
        return _runs_teacher(self.recipe)


def _runs_teacher(recipe: schema.PolarMix) -> bool:
    return bool(recipe.consistency_weight or (recipe.mix_weight and recipe.partner == "unlabelled"))


def _next_scans(scans: PointBatch) -> PointBatch:
    """Scans 1, 2, … and then 0."""
    found = scans.scans()
    return PointBatch.pack([*found[1:], *found[:1]]) if found else scans

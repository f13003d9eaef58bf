"""LaserMix: mean teacher, plus training on scans whose bands alternate between a labelled and an unlabelled scan."""

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.methods.pseudo_label import PseudoLabeller, keep_ratio
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec


class LaserMix(Method):
    """``L = L_sup + λ_mix L_mix + λ_mt L_mt``.

    The unlabelled scans are labelled by the teacher where it is confident; labelled scan i and unlabelled scan i
    exchange every second band of inclination, which gives two mixed scans with labels in (almost) every band.

    Source: LaserMix (CVPR 2023), section 3; batch, pairing and the order of events as in the authors'
    code. Where the paper is silent, ours: a weight of 0 skips its term and forwards, and ``ramp_up_ratio`` (0 is the
    paper) scales λ_mix and λ_mt alike.

    Args:
        student: The model to train; the teacher starts as its copy.
        recipe: Weights, confidence, numbers of areas, EMA rules.
        sensor: Its field of view is what the bands divide.
    """

    def __init__(self, student: Segmentor, recipe: schema.LaserMix, sensor: SensorSpec) -> None:
        super().__init__()
        self.student, self.recipe, self.sensor = student, recipe, sensor
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)
        self.labeller = PseudoLabeller(student.num_classes, recipe)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; as many unlabelled scans as labelled ones."""
        recipe, unlabelled_weight = self.recipe, ramp_up(progress, self.recipe.ramp_up_ratio)
        # L_sup: student on the labelled scans (x_l, y_l)
        student_l = self.student(labelled)
        terms = segmentation_terms(student_l, recipe)
        # ŷ_u: the teacher's confident points of the unlabelled scans x_u
        cells_u = self.student.cells_of(unlabelled)
        teacher_u = self.teacher(unlabelled, cells_u)
        pseudo_u = self.labeller(teacher_u.point_logits, labelled.labels, progress)
        # L_mix: student on both mixed scans of each pair, labels mixed alike
        if recipe.mix_weight:
            mixed = mix_pairs(labelled, unlabelled.with_labels(pseudo_u), self.sensor, recipe.num_areas, generator)
            terms |= segmentation_terms(self.student(mixed), recipe, "mix_", recipe.mix_weight * unlabelled_weight)
        # L_mt: student against teacher on x_l and x_u, over the same cells
        if recipe.consistency_weight:
            student_u, teacher_l = self.student(unlabelled, cells_u), self.teacher(labelled, student_l.cells)
            weight = recipe.consistency_weight * unlabelled_weight
            terms["consistency"] = weight * agreement([student_l, student_u], [teacher_l, teacher_u])
        return Losses(terms, {"pseudo_keep_ratio": keep_ratio(pseudo_u)})

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student."""
        self.teacher.update(self.student)
        self.labeller.after_step()

    def pseudo_labels(self, unlabelled: PointBatch) -> Int[Tensor, "P"] | None:
        """See ``Method.pseudo_labels``; none while the rule has no statistics."""
        return self.labeller.preview(self.teacher(unlabelled).point_logits)

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher; the teacher is the one to deploy, as in the authors' code."""
        return {"student": self.student, "teacher": self.teacher.model}

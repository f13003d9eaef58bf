"""Mean teacher: the student also has to agree with the average of its own past, on scans with and without labels."""

import torch

from ray_lidarseg.methods.method import Losses, Method, refuse_idle_teacher
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


class MeanTeacher(Method):
    """``L = L_sup + λ_mt L_mt``.

    Source: Mean Teacher (Tarvainen & Valpola, NeurIPS 2017) as LaserMix (CVPR 2023) uses it: one augmented cloud for
    student and teacher, no mask on the consistency, no ramp-up. Where the papers are silent: cells of both streams
    count alike in the mean (authors' code), a weight of 0 skips the term and its forwards (ours).

    Args:
        student: The model to train; the teacher starts as its copy.
        recipe: Weights and EMA rules.

    Raises:
        RecipeError: The teacher would gather its own batch-norm statistics, but never run.
    """

    def __init__(self, student: Segmentor, recipe: schema.MeanTeacher) -> None:
        super().__init__()
        refuse_idle_teacher(recipe, bool(recipe.consistency_weight), "consistency_weight=0")
        self.student, self.recipe = student, recipe
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``."""
        # L_sup: student on the labelled scans (x_l, y_l)
        student_l = self.student(labelled)
        terms = segmentation_terms(student_l, self.recipe)
        # L_mt: student against teacher on x_l and x_u, over the same cells
        if self.recipe.consistency_weight:
            cells_u = self.student.cells_of(unlabelled)
            student_u, teacher_u = self.student(unlabelled, cells_u), self.teacher(unlabelled, cells_u)
            teacher_l = self.teacher(labelled, student_l.cells)
            weight = self.recipe.consistency_weight * ramp_up(progress, self.recipe.ramp_up_ratio)
            terms["consistency"] = weight * agreement([student_l, student_u], [teacher_l, teacher_u])
        return Losses(terms)

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student."""
        self.teacher.update(self.student)

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher; the teacher is the one to deploy, as in the authors' code."""
        return {"student": self.student, "teacher": self.teacher.model}

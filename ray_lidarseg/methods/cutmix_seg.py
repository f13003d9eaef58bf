"""CutMix-Seg: the student has to say of a scan pasted together from two what the teacher says of each of them."""

from dataclasses import replace

import torch

from ray_lidarseg.geometry.polar_mix import cut_mix
from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.method import Losses, Method, refuse_idle_teacher
from ray_lidarseg.methods.objective import ramp_up, segmentation_terms
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec

_TEACHER = "teacher_probabilities"


class CutMixSeg(Method):
    """``L = L_sup + λ_cut r Σ_c (p_student(c) - p_teacher(c))²``, the mean over points of mixed unlabelled scans.

    Unlabelled scan i gets the points of the next one of the batch in a random rectangle of (azimuth, inclination); the
    teacher's probabilities of both travel with their points. r is the share of these points of which the teacher is
    surer than ``confidence``.

    Source: CutMix-Seg (French et al., BMVC 2020). Ours: directions for pixels, points for cells (a cell may hold points
    of both scans), no stronger augmentation of the student, and, where a forward holds a single unlabelled scan, the
    labelled scan beside it as partner.

    Args:
        student: The model to train; the teacher starts as its copy.
        recipe: Weight, confidence, area and EMA rules.
        sensor: Its field of view is the height of the image.

    Raises:
        RecipeError: The teacher would gather its own batch-norm statistics, but never run.
    """

    def __init__(self, student: Segmentor, recipe: schema.CutMixSeg, sensor: SensorSpec) -> None:
        super().__init__()
        refuse_idle_teacher(recipe, bool(recipe.cutmix_weight), "cutmix_weight=0")
        self.student, self.recipe, self.sensor = student, recipe, sensor
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``."""
        # L_sup: student on the labelled scans (x_l, y_l)
        terms = segmentation_terms(self.student(labelled), self.recipe)
        if not self.recipe.cutmix_weight:
            return Losses(terms)
        # p_teacher of the unlabelled scans x_u, and of their partners, mixed as their points are
        partners = self._labelled_by_teacher(_next_scans(unlabelled, labelled))
        mixed = cut_mix(self._labelled_by_teacher(unlabelled), partners, self.sensor, self.recipe.area_ratio, generator)
        teacher = mixed.extras[_TEACHER]
        confident = (teacher.max(dim=1).values > self.recipe.confidence).float()
        confident_ratio = confident.sum() / max(len(mixed), 1)
        # L_cut: student on the mixed scans
        student = class_probabilities(self.student(mixed).point_logits)
        weight = self.recipe.cutmix_weight * ramp_up(progress, self.recipe.ramp_up_ratio)
        terms["cutmix"] = weight * confident_ratio * (student - teacher).square().sum() / max(len(mixed), 1)
        return Losses(terms, {"confident_ratio": confident_ratio})

    def _labelled_by_teacher(self, scans: PointBatch) -> PointBatch:
        """The scans with the teacher's probabilities as one more extra."""
        probabilities = class_probabilities(self.teacher(scans).point_logits)
        return replace(scans, extras={**scans.extras, _TEACHER: probabilities})

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student."""
        self.teacher.update(self.student)

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher; the teacher is the one to deploy, as in the authors' code."""
        return {"student": self.student, "teacher": self.teacher.model}

    @property
    def uses_unlabelled(self) -> bool:
        """Only where they have a weight."""
        return bool(self.recipe.cutmix_weight)


def _next_scans(scans: PointBatch, beside: PointBatch) -> PointBatch:
    """Scans 1, 2, … and then 0; a single one gives the first of ``beside``, and itself where there is none."""
    if scans.num_scans > 1:
        found = scans.scans()
        return PointBatch.pack([*found[1:], found[0]])
    return beside.scan(0) if scans.num_scans and beside.num_scans else scans

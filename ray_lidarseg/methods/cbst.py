"""CBST on the step loop: pseudo-labels of a teacher, with a confidence threshold for each class."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.method import Losses, Method, refuse_idle_teacher
from ray_lidarseg.methods.objective import ramp_up, segmentation_terms
from ray_lidarseg.methods.pseudo_label import balanced_pseudo_labels, class_thresholds, keep_ratio
from ray_lidarseg.methods.step_notes import StepNotes
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


class CBST(Method):
    """``L = L_sup + λ_st L_st``: the student also learns pseudo-labels of the unlabelled scans, chosen class by class.

    A point gets the class with the largest ``p_c / k_c`` where that is above 1. The threshold ``k_c`` is the
    confidence that ``portion`` of the points predicted as c exceed, so that a rare or hard class keeps as large a share
    as an easy one; the portion grows over the schedule.

    The paper works in rounds: label all unlabelled images with the last model, rank all confidences of a class, train
    for some epochs, widen the portion by 5 %. A step loop has no rounds. Here (ours) an EMA of the student labels each
    batch as it comes, ``k_c`` is an exponential average of its value in the batches so far (in a class's first batch
    that batch's own), and the portion grows linearly with progress. Where a class was not predicted, ``k_c`` stays.

    Source: CBST (Zou et al., ECCV 2018), class-balanced self-training without the spatial priors.

    Args:
        student: The model to train; the teacher starts as its copy.
        recipe: Weight, portions and EMA rules.

    Raises:
        RecipeError: The teacher would gather its own batch-norm statistics, but never run.
    """

    thresholds: Tensor

    def __init__(self, student: Segmentor, recipe: schema.CBST) -> None:
        super().__init__()
        refuse_idle_teacher(recipe, bool(recipe.self_training_weight), "self_training_weight=0")
        self.student, self.recipe = student, recipe
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)
        self.register_buffer("thresholds", torch.zeros(student.num_classes))  # 0: the class was never predicted
        self._notes = StepNotes()

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``."""
        # L_sup: student on the labelled scans (x_l, y_l)
        terms = segmentation_terms(self.student(labelled), self.recipe)
        if not self.recipe.self_training_weight:
            return Losses(terms)
        # ŷ_u: the teacher's points of x_u that are confident for their class
        probability = class_probabilities(self.teacher(unlabelled).point_logits)
        pseudo_u = balanced_pseudo_labels(probability, self._thresholds(probability, progress))
        # L_st: student on (x_u, ŷ_u)
        weight = self.recipe.self_training_weight * ramp_up(progress, self.recipe.ramp_up_ratio)
        student_u = self.student(unlabelled.with_labels(pseudo_u))
        terms |= segmentation_terms(student_u, self.recipe, "self_training_", weight)
        return Losses(terms, {"pseudo_keep_ratio": keep_ratio(pseudo_u)})

    def _thresholds(self, probability: Float[Tensor, "P C"], progress: float) -> Float[Tensor, "C"]:
        """Those of before this step, the batch's own for a class never predicted; notes these for ``after_step``."""
        first, last = self.recipe.portion
        found, count = class_thresholds(probability, first + (last - first) * progress)
        self._notes.add(progress, torch.stack([found * count, count]))
        return torch.where(self.thresholds > 0, self.thresholds, found)

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student, and the thresholds towards those of this step on all ranks."""
        self.teacher.update(self.student)
        if not self.recipe.self_training_weight:
            return
        total = self._notes.total()
        found = total[0] / total[1].clamp(min=1)
        decay = torch.where(self.thresholds > 0, self.recipe.threshold_decay, 0.0)
        moved = decay * self.thresholds + (1 - decay) * found
        self.thresholds.copy_(torch.where(total[1] > 0, moved, self.thresholds))

    def pseudo_labels(self, unlabelled: PointBatch) -> Int[Tensor, "P"] | None:
        """See ``Method.pseudo_labels``; none where they have no weight, or before the first step."""
        if not self.recipe.self_training_weight or not self.thresholds.any():
            return None
        probability = class_probabilities(self.teacher(unlabelled).point_logits)
        return balanced_pseudo_labels(probability, torch.where(self.thresholds > 0, self.thresholds, 1.0))

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher; the teacher is the one to deploy, as with the other methods that have one."""
        return {"student": self.student, "teacher": self.teacher.model}

    @property
    def uses_unlabelled(self) -> bool:
        """Only where they have a weight."""
        return bool(self.recipe.self_training_weight)

"""Consistency of a student with its teacher."""

from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.losses.softmax import class_probabilities


def consistency(student_logits: Float[Tensor, "V C"], teacher_logits: Float[Tensor, "V C"]) -> Float[Tensor, ""]:
    """``mean over cells and classes of (softmax(student) - softmax(teacher))²``; no gradient to the teacher.

    Every cell counts, whatever its label or confidence. Without cells it is 0 with a graph.

    Args:
        student_logits: [V, C] unnormalised scores.
        teacher_logits: [V, C] of the same cells.

    Source: Mean Teacher (Tarvainen & Valpola, NeurIPS 2017); no mask, as in the LaserMix authors' code.
    """
    difference = class_probabilities(student_logits) - class_probabilities(teacher_logits.detach())
    return difference.square().sum() / max(difference.numel(), 1)

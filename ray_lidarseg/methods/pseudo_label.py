"""Hard pseudo-labels from a teacher's scores; no method itself."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.types import IGNORE


def pseudo_labels(point_logits: Float[Tensor, "P C"], confidence: float) -> Int[Tensor, "P"]:
    """The most probable class of each point, IGNORE where its softmax probability is not above ``confidence``.

    0 keeps every point, 1 keeps none (also where the softmax saturates). No class balancing, no sharpening.

    Args:
        point_logits: [P, C] unnormalised scores.
        confidence: Threshold in [0, 1].

    Returns:
        [P] int64 class ids or IGNORE.

    Source: LaserMix authors' code, which also keeps a probability equal to the threshold.
    """
    probability, label = class_probabilities(point_logits).max(dim=1)
    return torch.where(probability > confidence, label, IGNORE)


def keep_ratio(labels: Int[Tensor, "P"]) -> Float[Tensor, ""]:
    """Share of the points that got a pseudo-label, in [0, 1]; 0 without points."""
    return torch.count_nonzero(labels != IGNORE) / max(len(labels), 1)

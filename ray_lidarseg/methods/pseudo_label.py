"""Hard pseudo-labels from a teacher's scores, with one threshold or one a class; no method itself."""

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


def class_thresholds(
    probability: Float[Tensor, "P C"], portion: float
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
    """The confidence that ``portion`` of the points predicted as a class reach, for each class.

    Of the n points whose most probable class is c, in descending order of that probability, the one at place
    ceil(portion n), at least the first.

    Args:
        probability: [P, C] softmax.
        portion: In [0, 1].

    Returns:
        [C] thresholds, 1 where n is 0, and [C] the numbers n.

    Source: CBST (Zou et al., ECCV 2018), the class-balanced thresholds, over the points of one batch.
    """
    confidence, predicted = probability.max(dim=1)
    by_confidence = confidence.argsort(descending=True, stable=True)
    order = by_confidence[predicted[by_confidence].argsort(stable=True)]
    count = torch.bincount(predicted, minlength=probability.shape[1])
    place = (portion * count.double() - 1e-9).ceil().long().clamp(min=1) - 1
    last = (count.cumsum(0) - count + place).clamp(max=max(len(order) - 1, 0))
    found = confidence[order][last] if len(order) else torch.ones_like(count, dtype=probability.dtype)
    return torch.where(count > 0, found, 1.0), count.to(probability.dtype)


def balanced_pseudo_labels(probability: Float[Tensor, "P C"], thresholds: Float[Tensor, "C"]) -> Int[Tensor, "P"]:
    """The class with the largest ``p_c / threshold_c``, IGNORE where that is below 1.

    Args:
        probability: [P, C] softmax.
        thresholds: [C] in (0, 1].

    Returns:
        [P] int64 class ids or IGNORE.

    Source: CBST (Zou et al., ECCV 2018).
    """
    ratio, label = (probability / thresholds).max(dim=1)
    return torch.where(ratio >= 1, label, IGNORE)


def keep_ratio(labels: Int[Tensor, "P"]) -> Float[Tensor, ""]:
    """Share of the points that got a pseudo-label, in [0, 1]; 0 without points."""
    return torch.count_nonzero(labels != IGNORE) / max(len(labels), 1)

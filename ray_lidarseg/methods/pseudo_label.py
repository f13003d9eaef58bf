"""Hard pseudo-labels from a teacher's scores, with one threshold or one a class; no method itself."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.step_notes import StepNotes
from ray_lidarseg.recipe import schema
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
    return pseudo_labels_of(class_probabilities(point_logits), confidence)


def pseudo_labels_of(probability: Float[Tensor, "P C"], confidence: float) -> Int[Tensor, "P"]:
    """As ``pseudo_labels``, of probabilities."""
    most, label = probability.max(dim=1)
    return torch.where(most > confidence, label, IGNORE)


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
    # sorted by confidence, then stably by class: each class is one run of points, the surest first
    by_confidence = confidence.argsort(descending=True, stable=True)
    order = by_confidence[predicted[by_confidence].argsort(stable=True)]
    count = torch.bincount(predicted, minlength=probability.shape[1])
    # place in its run of the last point that is kept; a billionth less, for 0.07 * 100 is 7.000000000000001
    place = (portion * count.double() - 1e-9).ceil().long().clamp(min=1) - 1
    # a class without points has no run: its place points into another's, or past the end, and is dropped below
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


class PseudoLabeller(nn.Module):
    """Which of a teacher's points become labels, by one of four rules; τ is the recipe's ``confidence``.

    One threshold for all classes keeps what the teacher finds easy: road and buildings, seldom a pedestrian, so that
    training on the kept labels teaches what is known already. The other rules give each class its own chance:

    - ``confidence``: the most probable class c where ``p_c > τ``. LaserMix; no state.
    - ``flexmatch``: ``p_c > τ β_c / (2 - β_c)`` with ``β_c = σ_c / max(max σ, 1 - Σ σ)``, where σ_c is the share of the
      unlabelled points that are c with more than τ. FlexMatch (Zhang et al., NeurIPS 2021), its convex mapping and
      warm-up; it counts the last prediction of every sample, which a stream of scans has not: σ is an exponential
      average over steps (ours).
    - ``quantile``: ``p_c ≥ q_c`` or ``p_c > τ``, q_c the confidence that ``pseudo_portion`` of the points predicted as
      c reach (exponential average over steps): of each class at least that share is kept, and all points as sure as the
      last of it (those of one voxel share their scores). After CBST (Zou et al., ECCV 2018) and DARS (He et al., ICCV
      2021); what τ adds is ours.
    - ``alignment``: p is first multiplied by (class shares of the labelled points) / (mean of p over the unlabelled
      ones) and normalised, both exponential averages; then ``p_c > τ``. ReMixMatch (Berthelot et al., ICLR 2020).

    The statistics move in ``after_step``, over all ranks; before the first one a batch's own count.

    Args:
        num_classes: C.
        recipe: Rule, confidence, memory and portion.
    """

    statistics: Tensor

    def __init__(self, num_classes: int, recipe: schema.PseudoLabelling) -> None:
        super().__init__()
        self.recipe, self._notes = recipe, StepNotes()
        if recipe.pseudo_rule != "confidence":
            # two rows of running sums: numerators and denominators decay alike, so their ratio is an average
            self.register_buffer("statistics", torch.zeros(4, num_classes))

    def forward(
        self, point_logits: Float[Tensor, "P C"], labels: Int[Tensor, "Q"], progress: float
    ) -> Int[Tensor, "P"]:
        """Labels of unlabelled points.

        Args:
            point_logits: [P, C] the teacher's scores of the unlabelled points.
            labels: [Q] labels of the labelled points beside them, IGNORE allowed; rule ``alignment`` counts them.
            progress: Of the step, which tells its notes from those of a step that was skipped.

        Returns:
            [P] int64 class ids or IGNORE.
        """
        if self.recipe.pseudo_rule == "confidence":
            return pseudo_labels(point_logits, self.recipe.confidence)
        probability = class_probabilities(point_logits)
        found = self._found(probability, labels)
        self._notes.add(progress, found)
        # before the first step ends there is no average: the batch speaks for itself
        return self._labels(probability, torch.where(self.statistics.any(), self.statistics, found))

    def preview(self, point_logits: Float[Tensor, "P C"]) -> Int[Tensor, "P"] | None:
        """What the rule would say now, None while it has no statistics; changes nothing (for diagnosis)."""
        if self.recipe.pseudo_rule == "confidence":
            return pseudo_labels(point_logits, self.recipe.confidence)
        if not self.statistics.any():
            return None
        return self._labels(class_probabilities(point_logits), self.statistics)

    def after_step(self) -> None:
        """Moves the statistics towards those of this step on all ranks, every one of which must call it."""
        if self.recipe.pseudo_rule != "confidence":
            self.statistics.mul_(self.recipe.pseudo_memory).add_(
                self._notes.total(), alpha=1 - self.recipe.pseudo_memory
            )

    def _found(self, probability: Float[Tensor, "P C"], labels: Int[Tensor, "Q"]) -> Float[Tensor, "4 C"]:
        """Numerators and denominators of one batch: two rows each."""
        num_classes = probability.shape[1]
        ones, zeros = (probability.new_full((num_classes,), value) for value in (1.0, 0.0))
        if self.recipe.pseudo_rule == "flexmatch":
            sure = pseudo_labels_of(probability, self.recipe.confidence)
            return torch.stack([_count(sure, num_classes), ones * len(probability), zeros, zeros])
        if self.recipe.pseudo_rule == "quantile":
            threshold, count = class_thresholds(probability, self.recipe.pseudo_portion)
            return torch.stack([threshold * count, count, zeros, zeros])
        of_labels = _count(labels, num_classes)
        return torch.stack([probability.sum(dim=0), ones * len(probability), of_labels, ones * of_labels.sum()])

    def _labels(self, probability: Float[Tensor, "P C"], statistics: Float[Tensor, "4 C"]) -> Int[Tensor, "P"]:
        share = statistics[0] / statistics[1].clamp(min=1e-12)
        confidence, label = probability.max(dim=1)
        if self.recipe.pseudo_rule == "flexmatch":
            beta = share / torch.maximum(share.max(), 1 - share.sum()).clamp(min=1e-12)
            return torch.where(confidence > (self.recipe.confidence * beta / (2 - beta))[label], label, IGNORE)
        if self.recipe.pseudo_rule == "quantile":
            # a millionth less, for sums that were rounded; a class never predicted has no quantile
            quantile = torch.where(statistics[1] > 0, share * (1 - 1e-6), torch.inf)
            is_kept = (confidence >= quantile[label]) | (confidence > self.recipe.confidence)
            return torch.where(is_kept, label, IGNORE)
        prior = statistics[2] / statistics[3].clamp(min=1e-12)
        aligned = probability * prior / share.clamp(min=1e-6)  # a class the teacher never names has a bounded factor
        return pseudo_labels_of(aligned / aligned.sum(dim=1, keepdim=True).clamp(min=1e-12), self.recipe.confidence)


def _count(labels: Int[Tensor, "P"], num_classes: int) -> Float[Tensor, "C"]:
    known = torch.where(labels == IGNORE, num_classes, labels)  # IGNORE in a bin of its own, which is dropped
    return torch.bincount(known, minlength=num_classes + 1)[:num_classes].to(torch.float32)

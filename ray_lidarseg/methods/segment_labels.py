"""Pseudo-labels of image segments from what their pixels look like, and how good they are; no method itself."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.types import IGNORE

_ENTROPY_BINS = (0.05, 0.1, 0.2, 0.4)  # edges of the histogram that is logged (ours)


@dataclass(frozen=True)
class SegmentLabels:
    """What each segment is taken for.

    Attributes:
        group: [N] which segment: a value of ``groups``, ascending.
        label: [N] class of each segment, IGNORE where it is not kept.
        entropy: [N] normalised entropy of its mean probabilities, 1 where it has no voter.
        of_members: [R] label of each member: of the pixel's or point's segment if it is kept and the member may be
            labelled, else IGNORE.
    """

    group: Int[Tensor, "N"]
    label: Int[Tensor, "N"]
    entropy: Float[Tensor, "N"]
    of_members: Int[Tensor, "R"]

    def of(self, groups: Int[Tensor, "Q"]) -> Int[Tensor, "Q"]:
        """[Q] labels of members of segments, IGNORE where a segment is not here."""
        if not len(self.group):
            return torch.full_like(groups, IGNORE)
        place = torch.searchsorted(self.group, groups).clamp_max(len(self.group) - 1)
        return torch.where(self.group[place] == groups, self.label[place], IGNORE)


def segment_labels(
    probability: Float[Tensor, "R C"],
    groups: Int[Tensor, "R"],
    is_valid: Bool[Tensor, "R"],
    entropy_threshold: float,
    pixel_entropy_threshold: float = 1.0,
    min_members: int = 1,
) -> SegmentLabels:
    """Confident members decide for their whole segment: ``C_s = Σ q_p y_p / Σ q_p``, kept where ``H(C_s) < H_th``.

    ``q_p`` is 1 where member p is valid and its own entropy is at most ``pixel_entropy_threshold``. A kept segment's
    label, ``argmax C_s``, goes to all its valid members, the uncertain ones at its border included. Entropies are
    divided by ln C, so they lie in [0, 1] whatever the number of classes.

    Args:
        probability: [R, C] softmax of each pixel (or point).
        groups: [R] its segment; 0: none.
        is_valid: [R] whether it may vote and be labelled.
        entropy_threshold: H_th; 1 keeps all but the undecided.
        pixel_entropy_threshold: 1: every valid member votes.
        min_members: A segment with fewer voters is not kept.

    Source: arXiv 2411.02969 names a "confidence sampler" that keeps segment pseudo-labels whose entropy is below a
    threshold and lets confident interiors label uncertain borders; the formula is ours, its paper's body is not public.
    """
    is_member = is_valid & (groups > 0)
    ids, of_member = torch.unique(torch.where(is_member, groups, 0), return_inverse=True)
    votes = is_member & (entropy_of(probability) <= pixel_entropy_threshold)
    weight = votes.to(probability.dtype)[:, None]
    # segment by segment, in order, as all sums here: the same labels every time, on a GPU, too
    order = of_member.argsort(stable=True)
    starts = torch.searchsorted(of_member[order], torch.arange(len(ids) + 1, device=ids.device))
    sums = segment_sum(torch.cat([probability * weight, weight], 1), order, starts)
    mean = sums[:, :-1] / sums[:, -1:].clamp_min(1)
    entropy = torch.where(sums[:, -1] > 0, entropy_of(mean), 1.0)
    is_kept = (ids > 0) & (entropy < entropy_threshold) & (sums[:, -1] >= min_members)
    label = torch.where(is_kept, mean.argmax(dim=1), IGNORE)
    of_members = torch.where(is_member, label[of_member], IGNORE)
    is_segment = ids > 0
    return SegmentLabels(ids[is_segment], label[is_segment], entropy[is_segment], of_members)


def entropy_of(probability: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """``-Σ p ln p / ln C``, in [0, 1]; 0 ln 0 is 0."""
    return torch.special.entr(probability).sum(1) / math.log(max(2, probability.shape[1]))


def summary(
    found: SegmentLabels, num_classes: int, truth: Int[Tensor, "Q"] | None = None, label: Int[Tensor, "Q"] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """What a log line says of pseudo-labels.

    Args:
        found: Segments and members.
        num_classes: C.
        truth: [Q] hidden true classes of pixels, IGNORE where there is none; None: there is no hidden truth.
        label: [Q] labels of the same pixels.

    Returns:
        ``segment_keep_ratio``; ``segment_entropy_*_bin_ratio``, the share of the segments in each bin of entropy;
        ``pseudo_class_*_count``, labelled members of each class; with truth, ``pseudo_precision_ratio`` (right among
        the labelled pixels of known class, 0 where there is none), ``pseudo_recall_ratio`` (rightly labelled among all
        of known class), and ``pseudo_right_count``, ``pseudo_labelled_count`` and ``pseudo_known_count`` behind them,
        which may be added up over steps.
    """
    num_segments = found.label.new_tensor(max(1, len(found.label)), dtype=torch.float32)
    stats = {"segment_keep_ratio": (found.label != IGNORE).sum() / num_segments}
    edges = found.entropy.new_tensor(_ENTROPY_BINS)
    bins = torch.bucketize(found.entropy.contiguous(), edges)
    names = [f"below_{edge:g}" for edge in _ENTROPY_BINS] + [f"above_{_ENTROPY_BINS[-1]:g}"]
    for place, name in enumerate(names):
        stats[f"segment_entropy_{name}_bin_ratio"] = (bins == place).sum() / num_segments
    for class_id in range(num_classes):
        stats[f"pseudo_class_{class_id}_count"] = (found.of_members == class_id).sum().float()
    if truth is not None and label is not None:
        is_known, is_right = truth != IGNORE, (truth == label) & (truth != IGNORE)
        right, known, labelled = is_right.sum(), is_known.sum(), (is_known & (label != IGNORE)).sum()
        stats["pseudo_precision_ratio"] = right / labelled.clamp_min(1)
        stats["pseudo_recall_ratio"] = right / known.clamp_min(1)
        for name, count in (("right", right), ("labelled", labelled), ("known", known)):
            stats[f"pseudo_{name}_count"] = count.float()
    return stats

"""How good a predicted mask is: balanced cross-entropy and dice loss, IoU, the best of several answers.

Source: "Segment Anything" (arXiv 2304.02643), §3 and appendix A, for the sum of a pixel loss and dice, the squared
error of the predicted IoU and that the best of the three answers is trained. Ours, because the training is short: its
focal loss, twenty times dice, answered "nothing anywhere" for the first hundreds of steps; cross-entropy in which a
mask's inside and outside weigh the same does not. The other answers are trained, too, with a smaller weight, since one
that never wins would stay random; and the affinity loss tells the encoder directly which places belong together, long
before the decoder has learned to ask.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

_OTHERS_WEIGHT = 0.3
_AFFINITY_SCALE, _AFFINITY_OFFSET = 10.0, 0.5


def balanced_loss(
    logits: Float[Tensor, "*N H W"], target: Float[Tensor, "*N H W"], valid: Float[Tensor, "*N H W"]
) -> Float[Tensor, "*N"]:
    """Cross-entropy: mean over the valid pixels inside, plus mean over those outside, by two."""
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    inside = target * valid
    outside = valid - inside
    means = [(cross * part).sum((-2, -1)) / part.sum((-2, -1)).clamp(min=1) for part in (inside, outside)]
    return (means[0] + means[1]) / 2


def dice_loss(
    logits: Float[Tensor, "*N H W"], target: Float[Tensor, "*N H W"], valid: Float[Tensor, "*N H W"]
) -> Float[Tensor, "*N"]:
    """``1 - (2 Σ p t + 1) / (Σ p + Σ t + 1)`` over valid pixels."""
    share = logits.sigmoid() * valid
    both = (share * target).sum((-2, -1))
    return 1 - (2 * both + 1) / (share.sum((-2, -1)) + (target * valid).sum((-2, -1)) + 1)


def mask_iou(is_inside: Bool[Tensor, "*N H W"], target: Bool[Tensor, "*N H W"]) -> Float[Tensor, "*N"]:
    """Intersection over union; 0 where both are empty."""
    both = (is_inside & target).sum((-2, -1)).float()
    return both / (is_inside | target).sum((-2, -1)).clamp(min=1)


def prompt_losses(
    logits: Float[Tensor, "K 3 H W"],
    predicted_iou: Float[Tensor, "K 3"],
    target: Bool[Tensor, "K H W"],
    valid: Bool[Tensor, "H W"],
) -> dict[str, Tensor]:
    """Losses of the three answers to each prompt on one image.

    Args:
        logits: Low-resolution mask logits.
        predicted_iou: What the model thinks of each answer.
        target: The segment under each prompt.
        valid: Pixels that belong to the image, not to its padding.

    Returns:
        ``mask`` and ``iou``, scalars.
    """
    wanted = target[:, None].expand_as(logits)
    inside = valid.expand_as(logits)
    truth, counted = wanted.float(), inside.float()
    cost = balanced_loss(logits, truth, counted) + dice_loss(logits, truth, counted)
    best = cost.min(dim=1).values + _OTHERS_WEIGHT * cost.mean(dim=1)
    reached = mask_iou((logits > 0) & inside, wanted)
    return {"mask": best.mean(), "iou": functional.mse_loss(predicted_iou, reached)}


def affinity_loss(
    embedding: Float[Tensor, "F h w"], segments: Int[Tensor, "h w"], chosen: Int[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Cross-entropy of "same segment" between chosen cells and all cells, from the cosine of their embeddings.

    ``p = sigmoid(10 (cos - 0.5))``; the cells of the same segment and the others weigh the same.

    Args:
        embedding: Of one image.
        segments: Segment of each cell, 0 where it has none: such cells count for nothing.
        chosen: Positions of cells, row by row.
    """
    cells = functional.normalize(embedding.flatten(1).float(), dim=0)
    ids = segments.flatten()
    logits = _AFFINITY_SCALE * (cells[:, chosen].T @ cells - _AFFINITY_OFFSET)
    is_same = ids[chosen][:, None] == ids
    counts = (ids > 0) & (ids[chosen] > 0)[:, None]
    cost = functional.binary_cross_entropy_with_logits(logits, is_same.float(), reduction="none")
    same, other = is_same & counts, ~is_same & counts
    return ((cost * same).sum() / same.sum().clamp(min=1) + (cost * other).sum() / other.sum().clamp(min=1)) / 2

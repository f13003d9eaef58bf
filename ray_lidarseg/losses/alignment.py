"""How far the direction of one vector a point is from that of another."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LEAST_NORM = 1e-3
"""Shorter vectors count as this long, so that a vector of zeros gives cosine 0 and a bounded gradient (ours)."""


def cosine_distance(
    values: Float[Tensor, "P F"], targets: Float[Tensor, "P F"], is_counted: Bool[Tensor, "P"] | None = None
) -> Float[Tensor, ""]:
    """The mean over the counted points of ``1 - cos(value, target)``; no gradient to the targets.

    In float32 at least. Where no point counts it is 0 with a graph, so that every parameter gets a (zero) gradient.

    Args:
        values: [P, F] predictions.
        targets: [P, F] in any float type.
        is_counted: [P]; None counts all.

    Source: M3Net (CVPR 2024) for features and for logits; LaserMix++ (arXiv 2405.05258) names the same distance.
    """
    if is_counted is not None:
        values, targets = values[is_counted], targets[is_counted]
    cosine = (_unit(values) * _unit(targets.detach())).sum(dim=1)
    return (1 - cosine).sum() / max(len(cosine), 1)


def centred(scores: Float[Tensor, "P C"]) -> Float[Tensor, "P C"]:
    """Scores minus their mean over classes, in float32 at least: what is left says which class, not how much of all."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return wide - wide.mean(dim=1, keepdim=True)


def _unit(vectors: Float[Tensor, "P F"]) -> Float[Tensor, "P F"]:
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp(min=_LEAST_NORM)

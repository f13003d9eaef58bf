"""How far the direction of one vector a point is from that of another."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.sparse.products import linear

_LEAST_NORM = 1e-3
"""Shorter vectors count as this long, so that a vector of zeros gives cosine 0 and a bounded gradient (ours)."""


_ROWS = 1 << 14
"""Rows at a time: what is between memory and result stays in the cache (ours)."""


def cosine_distance(
    values: Float[Tensor, "P F"],
    targets: Float[Tensor, "P F"],
    group: Int[Tensor, "P"] | None = None,
    weight: Float[Tensor, "P"] | None = None,
) -> Float[Tensor, ""]:
    """The (weighted) mean over the points of ``1 - cos(value, target)``; no gradient to the targets.

    In float32 at least. Without points it is 0 with a graph, so that every parameter gets a (zero) gradient.

    Args:
        values: [P, F] predictions.
        targets: [P, F] in any float type.
        group: [P] small integers from 0; where given, the mean over groups of the mean over each one's points, so that
            a group of few points counts like one of many. None: all points count alike.
        weight: [P] not negative. A mean of weighted points is divided by the number of points and not by the sum of
            the weights: where all are doubtful, the whole term is small. None: 1.

    Source: M3Net (CVPR 2024) for features and for logits; LaserMix++ (arXiv 2405.05258) names the same distance. Groups
    are ours.
    """
    distance = 1 - _Cosines.apply(values, targets.detach())
    if weight is not None:
        distance = distance * weight
    if group is None or not len(group):
        return distance.sum() / max(len(distance), 1)
    sizes = torch.bincount(group)
    return (distance / sizes[group]).sum() / (sizes > 0).sum()


def projected_distance(
    features: Float[Tensor, "P F"],
    weight: Float[Tensor, "E F"],
    bias: Float[Tensor, "E"],
    targets: Float[Tensor, "N E"],
    row: Int[Tensor, "P"],
) -> Float[Tensor, ""]:
    """The mean over the points of ``1 - cos(W f + b, t)``, t the point's row of the targets; see ``cosine_distance``.

    E is several times F, and rows are far fewer than points. So nothing of size P x E is made: the product is
    ``(W f + b) · t = f · Wᵀt + b · t``, and the length ``|W f + b|² = f · (WᵀW f + 2 Wᵀb) + b · b``. Ours.

    Args:
        features: [P, F] of the points, in any float type.
        weight: [E, F] W.
        bias: [E] b.
        targets: [N, E] in any float type.
        row: [P] whose target is whose.
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        features, weight, bias = (part.to(wide) for part in (features, weight, bias))
        square = (features * linear(features, weight.T @ weight, weight.T @ (2 * bias))).sum(dim=1) + bias.dot(bias)
        length = square.clamp(min=_LEAST_NORM**2).sqrt()
        directions = functional.normalize(targets.detach().to(wide), dim=1, eps=_LEAST_NORM)
        product = (features * (directions @ weight)[row]).sum(dim=1) + (directions @ bias)[row]
        return (1 - product / length).sum() / max(len(features), 1)


def centred(scores: Float[Tensor, "P C"], known: Bool[Tensor, "C"] | None = None) -> Float[Tensor, "P C"]:
    """Scores minus their mean over classes, in float32 at least: what is left says which class, not how much of all.

    Args:
        scores: [P, C].
        known: The classes that count; the others become 0. None: all.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if known is None:
        return wide - wide.mean(dim=1, keepdim=True)
    mean = (wide * known).sum(dim=1, keepdim=True) / known.sum().clamp(min=1)
    return (wide - mean) * known


class _Cosines(torch.autograd.Function):
    """The cosine of each row of ``v`` with the same row of ``t``, some rows at a time; no gradient to ``t``.

    ``d cos / dv = t / (|v| |t|) - cos v / |v|²``, written down because automatic differentiation keeps and passes over
    four more matrices of all points. Short vectors count as ``_LEAST_NORM`` long, a length that does not change with
    them, so they have the first term only.
    """

    @staticmethod
    def forward(ctx: Any, values: Float[Tensor, "P F"], targets: Float[Tensor, "P F"]) -> Float[Tensor, "P"]:
        wide = torch.promote_types(values.dtype, torch.float32)
        length, target_length = (torch.linalg.vector_norm(rows, dim=1, dtype=wide) for rows in (values, targets))
        scale = 1 / (length.clamp(min=_LEAST_NORM) * target_length.clamp(min=_LEAST_NORM))
        parts = zip(values.split(_ROWS), targets.split(_ROWS), strict=True)
        cosine = torch.cat([(value * target.to(wide)).sum(dim=1) for value, target in parts]) * scale
        ctx.save_for_backward(values, targets, length, scale, cosine)
        return cosine

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Float[Tensor, "P F"], None]:
        (values, targets, length, scale, cosine), (gradient,) = ctx.saved_tensors, gradients
        inward = torch.where(length > _LEAST_NORM, gradient * cosine / length.square(), 0)
        along, result = gradient * scale, torch.empty_like(values)
        for first in range(0, len(values), _ROWS):
            part = slice(first, first + _ROWS)
            outward = targets[part] * along[part, None]
            result[part] = outward.addcmul_(values[part].to(outward.dtype), inward[part, None], value=-1)
        return result, None

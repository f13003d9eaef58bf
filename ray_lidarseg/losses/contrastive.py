"""Contrastive distillation: a point feature has to find its own image feature among all others of the batch."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.losses.row_blocks import PairedRows


def info_nce(pairs: PairedRows, temperature: float = 0.07) -> Float[Tensor, ""]:
    """``mean over i of -log softmax_j(k_i · q_j / τ)_i``: anchors are points, candidates images; one direction only.

    Args:
        pairs: k and q; of points one by one it is PPKT's loss, of segments SLidR's.
        temperature: τ.

    Source: PPKT (arXiv 2104.04687) and SLidR (CVPR 2022), authors' code.
    """

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        return functional.cross_entropy(
            points[block] @ images.T / temperature, _targets(block, points), reduction="sum"
        )

    return pairs.sum(term) / len(pairs) if len(pairs) else pairs.nothing


def tolerant_info_nce(
    pairs: PairedRows,
    temperature: float = 0.07,
    min_quantile: float = 0.01,
    max_quantile: float = 1.0,
    drop: Literal["zero_logit", "mask"] = "zero_logit",
    balanced: bool = True,
) -> Float[Tensor, ""]:
    """``info_nce`` that does not push away the negatives whose images look most alike, and balances its anchors.

    A is the cosine matrix of the image features, clipped to [0, 1]. In each row of ``1 - A`` the entries below its
    ``min_quantile`` (the most similar) or above its ``max_quantile`` are dropped, the row's own pair never. An anchor
    weighs ``1 - v_i``, ``v = (s - min s) / max s``, where s_i sums the entries of row i of A that are at least 0.5: the
    more there is of a thing, the less each of it counts. With ``min_quantile`` 0 and without balance it is
    ``info_nce``.

    Args:
        pairs: k and q; A comes from q, which is frozen and has no trainable head (in the authors' code it has one, and
            A comes from before it).
        temperature: τ.
        min_quantile: Share of the most similar negatives that is dropped.
        max_quantile: 1 keeps the farthest.
        drop: ``zero_logit``: a dropped negative's logit becomes 0, so it still adds exp(0) to the denominator (authors'
            code); ``mask``: it adds nothing.
        balanced: Whether anchors are weighted.

    Source: ST-SLidR (CVPR 2023), authors' code.
    """
    if not len(pairs):
        return pairs.nothing
    weights = _anchor_weights(pairs.images) if balanced else torch.ones_like(pairs.images[:, 0])

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        own = _targets(block, points)
        distance = 1 - (images[block] @ images.T).clamp(0, 1)
        is_dropped = distance < row_quantile(distance, min_quantile)
        if max_quantile < 1:  # none is above the largest
            is_dropped |= distance > row_quantile(distance, max_quantile)
        is_dropped.scatter_(1, own[:, None], False)
        logits = points[block] @ images.T / temperature
        logits = logits.masked_fill(is_dropped, 0.0 if drop == "zero_logit" else -torch.inf)
        return (weights[block] * functional.cross_entropy(logits, own, reduction="none")).sum()

    return pairs.sum(term) / weights.sum().clamp(min=1e-12)


@torch.no_grad()
def row_quantile(values: Float[Tensor, "R N"], share: float) -> Float[Tensor, "R 1"]:
    """``values.quantile(share, dim=1, keepdim=True)``, linear as there; only as much of a row is sorted as it takes.

    A hundredth of a row is what the loss asks for, and torch sorts the other ninety-nine with it.
    """
    last = values.shape[1] - 1
    place = float(torch.tensor(share, dtype=values.dtype) * last)  # on the host, rounded as torch rounds it
    below = min(int(place), last)
    if below < last / 2:
        first, second = values.topk(below + 2, dim=1, largest=False).values[:, -2:].unbind(1)
    else:  # from the other end; of the largest one there is no next
        outer = values.topk(last + 1 - below, dim=1).values[:, -2:]
        first, second = outer[:, -1], outer[:, 0]
    return torch.lerp(first, second, place - below)[:, None]


def _targets(block: slice, rows: Tensor) -> Tensor:
    return torch.arange(block.start, block.stop, device=rows.device)


@torch.no_grad()
def _anchor_weights(images: Float[Tensor, "N F"]) -> Float[Tensor, "N"]:
    """``1 - v``; a block of rows at a time."""
    rows = max(1, (1 << 22) // len(images))
    cosines = (block @ images.T for block in images.split(rows))
    alike = torch.cat([torch.where(cosine >= 0.5, cosine.clamp(max=1), 0).sum(dim=1) for cosine in cosines])
    return 1 - (alike - alike.min()) / alike.max().clamp(min=1e-12)

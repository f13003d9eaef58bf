"""Distillation without negatives: similarity of each pair, and relations among all pairs of a batch.

K [N, F] are point features, Q [N, F] the frozen image features of the same segments, all of unit length.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.losses.row_blocks import PairedRows, sum_by_rows

Relation = Literal["l1", "mse", "kl", "rkd"]
_ANGLE_ROWS = 64  # ours: rows between all of which angles are compared; all triplets of N rows are N³
_NEVER = -1e4  # a cosine whose exponential is 0 beside that of any other, at any temperature of use
_TRIANGLE_BLOCKS = 8  # at least, of a symmetric matrix: a sixteenth of it is then computed twice (ours)


def similarity(pairs: PairedRows, kind: Literal["cosine", "l2"] = "cosine") -> Float[Tensor, ""]:
    """``mean of 1 - k_i · q_i`` (``cosine``), or ``mean of ‖k_i - q_i‖`` (``l2``, not squared).

    Source: cosine: OpenScene (CVPR 2023), and the base of the relational loss (arXiv 2409.00845); l2: ScaLR (CVPR
    2024), authors' code.
    """
    if not len(pairs):
        return pairs.nothing

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        if kind == "l2":
            return torch.linalg.vector_norm(points[block] - images[block], dim=1).sum()
        return (1 - (points[block] * images[block]).sum(dim=1)).sum()

    return pairs.sum(term) / len(pairs)


def cross_modal(pairs: PairedRows, relation: Relation = "l1", temperature: float = 0.07) -> Float[Tensor, ""]:
    """``L_cross = mean of the diagonal of C + mean of the rest of C``, ``C = |K Qᵀ - Q Qᵀ|`` with relation ``l1``.

    As rows have length 1, the diagonal is ``1 - k_i · q_i``, the similarity loss. The rest asks that a point be as far
    from other segments' images as its own image is: no negatives, so nothing alike is pushed apart. The paper writes
    the double sum inside the mean over i, on which it does not depend.

    Other relations than the paper's, for comparison: ``mse`` squares C (as DINOv3's Gram anchoring does); ``kl`` keeps
    the diagonal and compares the rest of each row as softmax at ``temperature``, ``KL(Q Qᵀ ‖ K Qᵀ)``; ``rkd`` keeps the
    diagonal alone, since its relations are within K.

    Source: arXiv 2409.00845 (ECCV 2024) as a third party reports it; its body and code are not public. Relations
    ``kl`` and ``rkd`` across the modalities: ours.
    """
    if not len(pairs):
        return pairs.nothing
    if relation in ("kl", "rkd"):
        similar = similarity(pairs)
        return similar if relation == "rkd" else similar + _divergence(pairs, temperature, lambda p, q: q)
    count, off_weight = len(pairs), _off_weight(pairs)

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        size = _size((points[block] - images[block]) @ images.T, relation)  # K Qᵀ - Q Qᵀ in one product
        diagonal = size.diagonal(block.start).sum()
        return off_weight * (size.sum() - diagonal) + diagonal / count

    return pairs.sum(term)


def intra_modal(pairs: PairedRows, relation: Relation = "l1", temperature: float = 0.07) -> Float[Tensor, ""]:
    """``L_intra = mean over i ≠ j of |K Kᵀ - Q Qᵀ|_ij`` with relation ``l1``.

    It does not change when all of K is turned, so it must never be alone where text is to be compared with K. ``mse``
    and ``kl`` as in ``cross_modal``; ``rkd`` compares pairwise distances over their mean by smooth L1, plus twice the
    same of the angles within triplets, of 64 evenly spread rows.

    Source: in words, arXiv 2409.00845; this normalisation is ours. ``rkd``: Park et al. (CVPR 2019), authors' code,
    with its ratio of 1 : 2.
    """
    if len(pairs) < 2:
        return pairs.nothing
    if relation == "rkd":
        return _distances(pairs) + 2 * _angles(pairs)
    if relation == "kl":
        return _divergence(pairs, temperature, lambda points, images: points)
    off_weight = _off_weight(pairs)
    # K Kᵀ - Q Qᵀ is symmetric: where all rows are one's own, what lies right of a block of its diagonal counts twice
    is_whole = len(pairs.own) == len(pairs)

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        first = block.start if is_whole else 0
        size = _size(points[block] @ points[first:].T - images[block] @ images[first:].T, relation)
        off_diagonal = size.sum() - size.diagonal(block.start - first).sum()
        if is_whole:
            off_diagonal = off_diagonal + size[:, block.stop - first :].sum()
        return off_weight * off_diagonal

    return pairs.sum(term, block_rows=-(-len(pairs) // _TRIANGLE_BLOCKS) if is_whole else 0)


def _off_weight(pairs: PairedRows) -> float:
    """Of one entry off the diagonal in their mean."""
    return 1 / max(len(pairs) * (len(pairs) - 1), 1)


def _size(difference: Tensor, relation: Relation) -> Tensor:
    return difference.abs() if relation == "l1" else difference.square()


def _divergence(pairs: PairedRows, temperature: float, others: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, ""]:
    """``mean over i of KL(softmax over j ≠ i of q_i · q_j / τ ‖ the same of k_i and the others)``."""
    if len(pairs) < 2:
        return pairs.nothing

    def term(block: slice, points: Tensor, images: Tensor) -> Tensor:
        wanted, given = (
            (_without_own(rows[block] @ columns.T, block) / temperature).log_softmax(dim=1)
            for rows, columns in ((images, images), (points, others(points, images)))
        )
        return functional.kl_div(given, wanted, reduction="sum", log_target=True)

    return pairs.sum(term) / len(pairs)


def _without_own(rows: Float[Tensor, "b N"], block: slice) -> Float[Tensor, "b N"]:
    """The same cosines, in place, with one at a row's own place whose softmax is 0: taking it out would be a copy.

    Finite: the divergence multiplies that 0 by a difference of two logarithms.
    """
    rows.diagonal(block.start).fill_(_NEVER)
    return rows


def _without_diagonal(rows: Float[Tensor, "b N"], block: slice) -> Float[Tensor, "b _"]:
    """The rows of a square matrix without the entry on its diagonal."""
    keep = torch.ones_like(rows, dtype=torch.bool)
    keep.diagonal(block.start).fill_(False)
    return rows[keep].view(len(rows), -1)


def _distances(pairs: PairedRows) -> Float[Tensor, ""]:
    """Smooth L1 of pairwise distances over their mean, which has a gradient, too."""
    num_pairs = len(pairs) * (len(pairs) - 1)
    whole = lambda block, rows: _distance(rows, block).sum()  # noqa: E731
    sums = [sum_by_rows(whole, range(len(pairs)), len(pairs), rows) for rows in (pairs.points, pairs.images)]
    means = [total.clamp(min=1e-12) / num_pairs for total in sums]

    def term(block: slice, points: Tensor, images: Tensor, mean: Tensor, wanted_mean: Tensor) -> Tensor:
        given, wanted = _distance(points, block) / mean, _distance(images, block) / wanted_mean
        return functional.smooth_l1_loss(given, wanted, reduction="sum")

    return pairs.sum(term, *means) / num_pairs


def _distance(rows: Float[Tensor, "N F"], block: slice) -> Float[Tensor, "b _"]:
    """Distances of the block's unit rows to all others; 0 (with gradient 0) where two rows are equal."""
    squared = 2 - 2 * _without_diagonal(rows[block] @ rows.T, block)
    return squared.clamp(min=1e-12).sqrt()  # RKD's code: the root has no slope at 0


def _angles(pairs: PairedRows) -> Float[Tensor, ""]:
    """Smooth L1 of the cosines at the corner i of all triplets (i, j, k)."""
    step = -(-len(pairs) // _ANGLE_ROWS)
    given, wanted = (_corner_cosines(rows[::step]) for rows in (pairs.points, pairs.images))
    return functional.smooth_l1_loss(given, wanted)


def _corner_cosines(rows: Float[Tensor, "n F"]) -> Float[Tensor, "n n n"]:
    edges = functional.normalize(rows[None] - rows[:, None], dim=2)
    return edges @ edges.transpose(1, 2)

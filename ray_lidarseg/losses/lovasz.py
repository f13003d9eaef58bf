"""Lovász-softmax: a convex surrogate of the Jaccard loss, one class at a time."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.types import IGNORE


def lovasz_softmax(logits: Float[Tensor, "V C"], targets: Int[Tensor, "V"]) -> Float[Tensor, ""]:
    """The mean over the classes present of the Lovász extension of the Jaccard loss at the softmax errors.

    For class c the error of cell i is ``m_i = 1 - p_i(c)`` where c is its target, else ``p_i(c)``. With the errors in
    descending order, ``loss(c) = Σ_k m_(k) (J_k - J_(k-1))``, where ``J_k`` is the Jaccard loss (1 - IoU) of getting
    exactly the k worst cells wrong. The order does not change under small changes of the scores, so the gradient with
    respect to ``m_(k)`` is ``J_k - J_(k-1)``.

    Cells that are IGNORE are left out. Where no cell is left it is 0 with a graph.

    Args:
        logits: [V, C] unnormalised scores.
        targets: [V] class ids, IGNORE where there is none.

    Source: Berman et al., "The Lovász-Softmax loss" (CVPR 2018); all cells of the batch at
    once and classes present only, as in the LaserMix authors' code.
    """
    is_used = targets != IGNORE
    if logits.device.type == "cpu" and logits.dtype != torch.float64:  # saves sorting them; a GPU would be waited for
        logits, targets, is_used = logits[is_used], targets[is_used], is_used[is_used]
    probability = class_probabilities(logits).t().contiguous()  # [C, V]: one row to sort per class
    is_target = targets == torch.arange(logits.shape[1], device=targets.device)[:, None]
    is_present = is_target.any(dim=1)
    weights = _jaccard_steps(probability.detach(), is_target, is_used) * is_present[:, None]
    # errors · weights, where errors are 1 - p or p: one product of all cells and classes that a gradient passes through
    at_targets = torch.where(is_target, weights, 0).sum()
    total = at_targets + (probability * torch.where(is_target, -weights, weights)).sum()
    return total / is_present.sum().clamp(min=1)


def _jaccard_steps(
    probability: Float[Tensor, "C V"], is_target: Bool[Tensor, "C V"], is_used: Bool[Tensor, "V"]
) -> Float[Tensor, "C V"]:
    """``J_k - J_(k-1)`` of each cell, k its place among the errors of its row in descending order; 0 where not used."""
    errors = torch.where(is_target, 1 - probability, probability)
    if errors.device.type == "cpu" and errors.dtype == torch.float32:
        return _jaccard_steps_by_class(errors, is_target)
    errors = torch.where(is_used, errors, -1)  # behind all others, whose steps they do not change then
    order = errors.argsort(dim=1, descending=True)
    num_wrong_targets = is_target.gather(1, order).cumsum(dim=1, dtype=errors.dtype)
    num_targets = is_target.sum(dim=1, keepdim=True)
    num_wrong = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    union = num_targets + num_wrong - num_wrong_targets
    jaccard_loss = 1 - (num_targets - num_wrong_targets) / union
    steps = jaccard_loss.diff(dim=1, prepend=torch.zeros_like(jaccard_loss[:, :1]))
    return torch.where(is_used, torch.zeros_like(errors).scatter_(1, order, steps), 0)


_CELL_BITS = 31  # of a sorting key below the error's; a cell's number fits


def _jaccard_steps_by_class(errors: Float[Tensor, "C V"], is_target: Bool[Tensor, "C V"]) -> Float[Tensor, "C V"]:
    """The same on a CPU, class by class, so that what is sorted stays in the cache; classes that are absent stay 0.

    A key is the error's bits (those of non-negative floats order like the floats), the cell, and whether it is a
    target, in one int64: NumPy sorts these with vector instructions, and nothing has to be looked up afterwards.
    """
    steps = torch.zeros_like(errors)
    num_wrong = np.arange(1, errors.shape[1] + 1)
    cells = num_wrong - 1 << 1
    for row, is_wanted, out in zip(errors.numpy(), is_target.numpy(), steps.numpy(), strict=True):
        if not is_wanted.any():
            continue
        keys = (~row.view(np.int32)).astype(np.int64) << _CELL_BITS + 1
        keys |= cells
        keys |= is_wanted
        keys.sort()
        num_right_targets = np.cumsum(keys & 1)
        np.subtract(num_right_targets[-1], num_right_targets, out=num_right_targets)
        iou = num_right_targets / (num_right_targets + num_wrong)
        keys &= (1 << _CELL_BITS + 1) - 1
        keys >>= 1
        out[keys[0]] = 1 - iou[0]
        out[keys[1:]] = iou[:-1] - iou[1:]
    return steps

"""Lovász-softmax: a convex surrogate of the Jaccard loss, one class at a time."""

from typing import Any

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
    if logits.device.type == "cpu" and logits.dtype != torch.float64:  # a GPU would be waited for, and has the memory
        loss: Tensor = _ByClass.apply(class_probabilities(logits[is_used]), targets[is_used])
        return loss
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
_BLOCK = 1 << 15  # cells of a pass whose temporaries stay in the cache; ours


class _ByClass(torch.autograd.Function):
    """The same of float32 probabilities [V, C] on a CPU, no cell ignored: class by class, block by block.

    Whole [C, V] temporaries are what makes a million cells cost more than ten times a hundred thousand: the system
    hands them over page by page. Here there are two, the probabilities and their gradient.
    """

    @staticmethod
    def forward(ctx: Any, probability: Tensor, targets: Tensor) -> Tensor:
        num_cells, num_classes = probability.shape
        gradient = torch.zeros(num_classes, num_cells)
        error, keys = np.empty(num_cells, np.float32), np.empty(num_cells, np.int64)
        by_class, total, num_present = targets.numpy(), 0.0, 0
        for number, (column, row) in enumerate(zip(probability.numpy().T, gradient.numpy(), strict=True)):
            is_target = by_class == number
            if num_targets := np.count_nonzero(is_target):
                np.copyto(error, column)
                np.subtract(1, error, out=error, where=is_target)
                _jaccard_steps_of(error, is_target, num_targets, keys, row)
                blocks = range(0, num_cells, _BLOCK)  # a product of all in one would lose the last digits
                total += sum(float(np.dot(error[at : at + _BLOCK], row[at : at + _BLOCK])) for at in blocks)
                np.negative(row, out=row, where=is_target)  # a target's error falls with its probability
                num_present += 1
        ctx.save_for_backward(gradient.div_(max(num_present, 1)))
        return probability.new_tensor(total / max(num_present, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return torch.mul(gradient.t(), grads[0], out=gradient.new_empty(gradient.shape[::-1])), None


def _jaccard_steps_of(
    errors: Float[np.ndarray, "V"],
    is_target: Bool[np.ndarray, "V"],
    num_targets: int,
    keys: Int[np.ndarray, "V"],
    steps: Float[np.ndarray, "V"],
) -> None:
    """Writes ``J_k - J_(k-1)`` of each cell of one class into ``steps``; ``keys`` is room to sort in.

    A key is the error's bits (those of non-negative floats order like the floats), the cell, and whether it is a
    target, in one int64: NumPy sorts these with vector instructions, and nothing has to be looked up afterwards.
    """
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(keys), _BLOCK)]
    for block in blocks:
        key = keys[block]
        np.copyto(key, ~errors[block].view(np.int32))
        key <<= _CELL_BITS + 1
        key |= np.arange(block.start, block.start + len(key)) << 1
        key |= is_target[block]
    keys.sort()
    iou_before, num_right = 1.0, num_targets
    for block in blocks:
        key = keys[block]
        num_right_targets = num_right - np.cumsum(key & 1)
        num_wrong = np.arange(block.start + 1, block.start + 1 + len(key))
        iou = num_right_targets / (num_right_targets + num_wrong)
        key &= (1 << _CELL_BITS + 1) - 1
        key >>= 1
        steps[key[0]] = iou_before - iou[0]
        steps[key[1:]] = iou[:-1] - iou[1:]
        iou_before, num_right = iou[-1], num_right_targets[-1]

"""Cross entropy over the cells that have a label."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.types import IGNORE


def cross_entropy(logits: Float[Tensor, "V C"], targets: Int[Tensor, "V"], over_all: bool = False) -> Float[Tensor, ""]:
    """The sum of ``-log softmax(logits)[target]`` over the cells that are not IGNORE, by their number.

    Where no cell is left it is 0 with a graph, so that every parameter still gets a (zero) gradient.

    Args:
        logits: [V, C] unnormalised scores.
        targets: [V] class ids, IGNORE where there is none.
        over_all: Divides by the number of all cells instead: few pseudo-labels then weigh little.

    Source: LaserMix authors' code, whose MinkUNet averages over the non-ignored and whose Cylinder3D over all.
    """
    total = functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return total / (max(len(targets), 1) if over_all else torch.count_nonzero(targets != IGNORE).clamp(min=1))

"""Cross entropy over the cells that have a label."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.types import IGNORE


def cross_entropy(logits: Float[Tensor, "V C"], targets: Int[Tensor, "V"]) -> Float[Tensor, ""]:
    """The mean of ``-log softmax(logits)[target]`` over the cells that are not IGNORE.

    Where no cell is left it is 0 with a graph, so that every parameter still gets a (zero) gradient.

    Args:
        logits: [V, C] unnormalised scores.
        targets: [V] class ids, IGNORE where there is none.

    Source: LaserMix authors' code (MinkUNet head: averaged over the non-ignored).
    """
    total = functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return total / torch.count_nonzero(targets != IGNORE).clamp(min=1)

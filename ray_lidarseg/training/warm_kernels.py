"""Kernels that a sparse backend compiles as it first meets them: one process of a node does, the others find them.

Triton keeps what it compiled in a folder of the machine. Without this every rank of a node would compile the same
kernels at once, on cores the loaders need, in the first step of a run.
"""

import copy

import torch

from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.training.loop import Ranks


def warm_kernels(
    student: Segmentor, scans: PointBatch, precision: torch.dtype | None, ranks: Ranks, device: torch.device
) -> None:
    """A forward and a backward pass of a copy, on the first rank of each node; every rank must call it and waits.

    In evaluation mode, as batch norms that look at all ranks would wait for those that wait here. The student, its
    gradients and the generators of random numbers stay as they were.

    Args:
        student: What will train.
        scans: On the host; of usual size, as kernels may be chosen by it.
        precision: What autocast computes in; None is float32.
        ranks: This process among the others.
        device: Where it computes.
    """
    if not ranks.local_rank:
        seen = copy.deepcopy(student).eval()
        with torch.autocast(device.type, precision, enabled=precision is not None):
            output = seen(scans.to(device))
        output.cell_logits.float().sum().backward()
    ranks.least(0, device)

"""A short training without a method, to see whether a model learns at all."""

import torch
from torch.nn import functional

from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IGNORE


def losses_of(model: Segmentor, batch: PointBatch, steps: int, rate: float) -> list[float]:
    """Cross entropy of the cells of one batch, before each of the steps."""
    optimiser, cells = torch.optim.AdamW(model.parameters(), rate), model.represent(batch)
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(model(batch, cells).cell_logits, cells.targets, ignore_index=IGNORE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses

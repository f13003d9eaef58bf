"""Geometry in the loader (``workers.geometry_in_loader``): what a step would compute before its first convolution.

Voxels, kernel maps and pixels depend on points alone. A loader process computes them ahead, on the host, for batches as
they come from the stream; a step then only copies them to its device. Scans that a method mixes are made on the device,
and so is their geometry: all of it moves for labels-only training, about half for LaserMix.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.segmentor import Cells, Segmentor
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.training.cargo import Cargo, stowed

_NARROW = 1 / 32  # of the network that represents: its layers say which maps are wanted, their widths do not matter


@dataclass(frozen=True)
class Represented:
    """A batch with its cells, ready to travel.

    Attributes:
        num_scans: Of the batch.
        cargo: Batch and cells.
    """

    num_scans: int
    cargo: Cargo

    def pin_memory(self) -> "Represented":
        """In memory that a GPU reads by itself."""
        return Represented(self.num_scans, self.cargo.pin_memory())

    def to(self, device: torch.device) -> tuple[PointBatch, Cells]:
        """Both on a device."""
        batch, cells = self.cargo.to(device).opened()
        return batch, cells


class RepresentedSteps(Dataset[list[tuple[Any, Any]]]):
    """The steps of a stream with their cells; batches without scans stay as they are.

    Args:
        stream: Of this worker.
        recipe: Its model.
        sensor: What took the scans.
    """

    def __init__(self, stream: TrainSteps, recipe: Recipe, sensor: SensorSpec) -> None:
        model = recipe.model.model_copy(update={"width_factor": _NARROW * recipe.model.width_factor})
        with torch.random.fork_rng(devices=[]):
            self._model = build_segmentor(recipe.model_copy(update={"model": model}), sensor, num_classes=2)
        self._stream = stream

    def __len__(self) -> int:
        """Number of optimiser steps."""
        return len(self._stream)

    def __getitem__(self, step: int) -> list[tuple[Any, Any]]:
        """The micro-batches of a step; see ``TrainSteps``."""
        return [
            (self._represented(labelled), self._represented(unlabelled)) for labelled, unlabelled in self._stream[step]
        ]

    def _represented(self, batch: PointBatch) -> PointBatch | Represented:
        if not batch.num_scans:
            return batch
        return Represented(batch.num_scans, stowed((batch, self._model.represent(batch))))


@contextmanager
def foreseen(module: nn.Module, cells: Sequence[tuple[PointBatch, Cells]]) -> Iterator[None]:
    """Inside, every model of a module takes these cells for these very batches; all are of one recipe."""
    models = [each for each in module.modules() if isinstance(each, Segmentor)] if cells else []
    for model in models:
        model.foreseen = cells
    try:
        yield
    finally:
        for model in models:
            model.foreseen = ()

"""Scoring a method's models on the validation frames, divided among the training workers.

A class that neither truth nor prediction holds counts by the rule of the data set (``DatasetSpec.absent``).
"""

from typing import Any

import torch

from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.methods.method import Method
from ray_lidarseg.metrics.scoring import score
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import SensorSpec
from ray_lidarseg.training.loop import Ranks


class Validation:
    """Callable at any step by all ranks together; leaves the method as it was.

    Args:
        frames: The labelled validation frames; may be fewer than there are ranks, or none.
        recipe: Batch size and whether intensity is used.
        sensor: The LiDAR.
        num_classes: C.
        device: Where the method is.
        ranks: This process among the others.
    """

    def __init__(
        self,
        frames: PreparedFrames,
        recipe: Recipe,
        sensor: SensorSpec,
        num_classes: int,
        device: torch.device,
        ranks: Ranks,
    ):
        self._frames, self._recipe, self._sensor = frames, recipe, sensor
        self._num_classes, self._device, self._ranks = num_classes, device, ranks
        self._absent = dataset_of(recipe.data).absent

    def __call__(self, method: Method, step: int) -> list[dict[str, Any]]:
        """One metrics line for each of the method's models; none where there are no validation frames."""
        if not len(self._frames):
            return []
        modes = {module: module.training for module in method.modules()}
        lines = [self._line(name, model, step) for name, model in method.classifiers().items()]
        for module, is_training in modes.items():
            module.training = is_training
        return lines

    def _line(self, name: str, model: Segmentor, step: int) -> dict[str, Any]:
        mine = (self._frames[i] for i in range(self._ranks.rank, len(self._frames), self._ranks.world_size))
        scores = score(
            model,
            mine,
            self._sensor,
            self._num_classes,
            self._recipe.data.use_intensity,
            self._device,
            self._recipe.train.evaluate_batch,
        )
        point, cell = scores.point, scores.cell
        point.all_reduce()
        cell.all_reduce()
        return {
            "kind": "evaluate",
            "step": step,
            "model": name,
            "point_miou_ratio": point.miou(self._absent),
            "cell_miou_ratio": cell.miou(self._absent),
            "point_iou_ratio": [float(value) for value in point.iou()],
            "frames": len(self._frames),
        }

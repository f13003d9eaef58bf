"""Why a run gains or does not: how good its models and its pseudo-labels are on scans whose labels it may not see.

Many data sets hold labels of frames that a run counts as unlabelled. Nothing here reaches a weight: the numbers go to
``metrics.jsonl`` and to the report.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.splits import LabelSplit
from ray_lidarseg.methods.method import Method
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.models.norm_statistics import Statistics, kept_statistics, lent_statistics
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.types import IGNORE


class Diagnosis:
    """Callable at any step by all ranks together; leaves the method as it was.

    Args:
        frames: Unlabelled training frames with labels that only this reads; may be none.
        recipe: Whether intensity is used, and how many scans the teacher sees at once in training.
        sensor: The LiDAR.
        num_classes: C.
        absent: What a class that is nowhere counts in the mean (see ``Confusion.miou``).
        device: Where the method is.
        ranks: This process among the others.
    """

    def __init__(
        self,
        frames: PreparedFrames,
        recipe: Recipe,
        sensor: SensorSpec,
        num_classes: int,
        absent: Any,
        device: torch.device,
        ranks: Ranks,
    ):
        self._frames, self._recipe, self._sensor, self._absent = frames, recipe, sensor, absent
        self._num_classes, self._device, self._ranks = num_classes, device, ranks

    @torch.no_grad()
    def __call__(self, method: Method, step: int, statistics: Statistics | None = None) -> list[dict[str, Any]]:
        """One metrics line; none where there are no such frames.

        Args:
            method: What is diagnosed.
            step: The number of steps done.
            statistics: With which the model to deploy is validated and saved; it is scored with them, while
                pseudo-labels are made without, as in training. Left out: its own.

        Returns:
            ``NAME_unlabelled_miou_ratio`` for each of the method's models, by point; and where the method makes
            pseudo-labels, ``truth_ratio`` [C] (share of each class among the points with a truth), ``kept_ratio`` [C]
            (share of a class's points that got any pseudo-label), ``precision_ratio`` [C] (share of the pseudo-labels
            of a class that are right), ``recall_ratio`` [C] (share of a class's points that got the right one),
            ``kept_total_ratio`` and ``precision_total_ratio``. NaN becomes None where nothing was counted.
        """
        if not (len(self._frames) and method.classifiers()):
            return []
        names = [*method.classifiers(), "pseudo"]
        said = {name: Confusion(self._num_classes + 1) for name in names}  # the last column: no pseudo-label
        for batch in self._batches():
            self._count(method, batch, said, statistics or {})
        for confusion in said.values():
            confusion.all_reduce()
        line: dict[str, Any] = {"kind": "diagnose", "step": step, "frames": len(self._frames)}
        for name in names[:-1]:
            line[f"{name}_unlabelled_miou_ratio"] = self._of_classes(said[name]).miou(self._absent)
        if said["pseudo"].counts.any():
            line |= _of_pseudo_labels(said["pseudo"].counts.double())
        return [line]

    def _count(self, method: Method, batch: PointBatch, said: dict[str, Confusion], statistics: Statistics) -> None:
        modes = {module: module.training for module in method.modules()}
        method.train()
        with kept_statistics(method):
            # as in training: a teacher that normalises by its batch does so here, too
            pseudo = method.pseudo_labels(batch.unlabelled())
        method.eval()
        with lent_statistics(method.deployed_model, statistics):
            for name, model in method.classifiers().items():
                said[name].add(batch.labels, model(batch).point_logits.argmax(dim=1))
        if pseudo is not None:
            said["pseudo"].add(batch.labels, torch.where(pseudo == IGNORE, self._num_classes, pseudo))
        for module, is_training in modes.items():
            module.training = is_training

    def _batches(self) -> list[PointBatch]:
        mine = range(self._ranks.rank, len(self._frames), self._ranks.world_size)
        scans = [to_batch(self._frames[i], self._sensor, self._recipe.data.use_intensity)[0] for i in mine]
        size = max(1, self._recipe.train.unlabelled_per_step // self._ranks.world_size)
        size = min(size, self._recipe.train.micro_batch or size)
        return [PointBatch.pack(scans[i : i + size]).to(self._device) for i in range(0, len(scans), size)]

    def _of_classes(self, confusion: Confusion) -> Confusion:
        of_classes = Confusion(self._num_classes)
        of_classes.counts = confusion.counts[: self._num_classes, : self._num_classes]
        return of_classes


def diagnosed_frames(catalog: Catalog, split: LabelSplit, number: int) -> Catalog:
    """At most ``number`` unlabelled frames that have labels all the same, evenly spread over the split's order."""
    is_labelled = dict(zip(catalog.frame_id, catalog.is_labelled, strict=True))
    seen = set(split.labelled)  # with all frames labelled they are the unlabelled stream, too, and show nothing
    known = [frame_id for frame_id in split.unlabelled if is_labelled.get(frame_id) and frame_id not in seen]
    places = np.unique(np.linspace(0, len(known) - 1, min(number, len(known))).round().astype(int))
    return catalog.select(known[place] for place in places)


def _of_pseudo_labels(counts: Float[Tensor, "K K"]) -> dict[str, Any]:
    """Of counts with one row and column more than there are classes: the last column is "no label"."""
    truth, kept, right = counts[:-1].sum(dim=1), counts[:-1, :-1], counts.diagonal()[:-1]
    return {
        "truth_ratio": _plain(truth / truth.sum()),
        "kept_ratio": _plain(kept.sum(dim=1) / truth),
        "precision_ratio": _plain(right / kept.sum(dim=0)),
        "recall_ratio": _plain(right / truth),
        "kept_total_ratio": _plain(kept.sum() / truth.sum())[0],
        "precision_total_ratio": _plain(right.sum() / kept.sum())[0],
    }


def _plain(values: Tensor) -> list[float | None]:
    """For JSON, which knows no NaN."""
    return [round(value, 5) if np.isfinite(value) else None for value in values.reshape(-1).tolist()]

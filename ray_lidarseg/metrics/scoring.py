"""Scores of a segmentor on labelled key-frames, by point and by cell, from exact counts that merge."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.models.inference import ScanLabels, label_frames
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import Keyframe, SensorSpec


@dataclass
class Scores:
    """Counts at the two levels that published numbers mix up.

    Attributes:
        point: Every labelled point of the files: what the benchmarks count.
        cell: Every cell with a label, on the model's own voxels or pixels: what the tables of LaserMix count.
        num_frames: Labelled frames the counts are of.
    """

    point: Confusion
    cell: Confusion
    num_frames: int = 0

    @staticmethod
    def empty(num_classes: int) -> "Scores":
        """Nothing counted yet."""
        return Scores(Confusion(num_classes), Confusion(num_classes))

    def add(self, frame: Keyframe, result: ScanLabels) -> None:
        """Counts one frame; a frame without labels is left out."""
        if not len(frame.labels):
            return
        self.point.add(frame.labels, result.labels)
        self.cell.add(result.cell_targets, result.cell_labels)
        self.num_frames += 1

    def merge(self, other: "Scores") -> "Scores":
        """Adds the counts of ``other`` to these, and returns these."""
        self.point.merge(other.point)
        self.cell.merge(other.cell)
        self.num_frames += other.num_frames
        return self


def score(
    segmentor: Segmentor,
    frames: Iterable[Keyframe],
    sensor: SensorSpec,
    num_classes: int,
    use_intensity: bool = True,
    device: torch.device | str = "cpu",
    batch: int = 1,
) -> Scores:
    """Labels decoded key-frames, ``batch`` at a time, and counts them against their labels.

    Points whose truth is IGNORE are not counted; every other point of the file is, also those no model may see
    (``label_frames`` says which label they get). Nothing is communicated: call ``all_reduce`` of both confusions where
    each rank scores its own frames.

    Args:
        segmentor: On ``device`` already; its mode is restored.
        frames: Decoded key-frames, read as they are needed.
        sensor: Their LiDAR.
        num_classes: C.
        use_intensity: As in the recipe the model was trained with.
        device: Where to compute.
        batch: Scans in one forward.
    """
    scores = Scores.empty(num_classes)
    for group in _groups(frames, batch):
        for frame, result in zip(group, label_frames(segmentor, group, sensor, use_intensity, device), strict=True):
            scores.add(frame, result)
    return scores


def _groups(frames: Iterable[Keyframe], size: int) -> Iterator[list[Keyframe]]:
    iterator = iter(frames)
    while group := list(islice(iterator, size)):
        yield group

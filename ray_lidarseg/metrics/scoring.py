"""Scores of a segmentor on labelled key-frames, by point and by cell, from exact counts that merge."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from ray_lidarseg.datasets.points import usable
from ray_lidarseg.metrics.calibration import Calibration
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.metrics.range_confusion import RangeConfusion
from ray_lidarseg.models.inference import ScanLabels, label_frames
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import ImageSensor, Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE


@dataclass
class Scores:
    """Counts at the two levels that published numbers mix up, and what the point level hides in one number.

    Attributes:
        by_range: Every labelled point of the files, by its distance.
        cell: Every cell with a label, on the model's own voxels or pixels: what the tables of LaserMix count.
        calibration: Confidence against correctness of the labelled points a model saw.
        num_frames: Labelled frames the counts are of.
    """

    by_range: RangeConfusion
    cell: Confusion
    calibration: Calibration
    num_frames: int = 0

    @property
    def point(self) -> Confusion:
        """Every labelled point of the files: what the benchmarks count."""
        return self.by_range.total()

    @staticmethod
    def empty(num_classes: int) -> "Scores":
        """Nothing counted yet."""
        return Scores(RangeConfusion(num_classes), Confusion(num_classes), Calibration())

    def add(self, frame: Keyframe, result: ScanLabels) -> None:
        """Counts one frame; a frame without labels is left out."""
        if not len(frame.labels):
            return
        is_scan = len(frame.points) == len(frame.labels)  # pixels of an image have no range
        with np.errstate(invalid="ignore", over="ignore"):
            range_m = np.linalg.norm(frame.points[:, :3], axis=1) if is_scan else np.full(len(frame.labels), np.nan)
        self.by_range.add(frame.labels, result.labels, range_m)
        self.cell.add(result.cell_targets, result.cell_labels)
        self.calibration.add(frame.labels, result.labels, result.confidence)
        self.num_frames += 1

    def merge(self, other: "Scores") -> "Scores":
        """Adds the counts of ``other`` to these, and returns these."""
        self.by_range.merge(other.by_range)
        self.cell.merge(other.cell)
        self.calibration.merge(other.calibration)
        self.num_frames += other.num_frames
        return self

    def to_json(self) -> dict[str, Any]:
        """All counts as plain integers: what workers send and unfinished passes keep."""
        parts = {name: getattr(self, name).as_list() for name in ("by_range", "cell", "calibration")}
        return {**parts, "num_frames": self.num_frames}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Scores":
        """The inverse of ``to_json``."""
        return Scores(
            RangeConfusion.from_list(content["by_range"]),
            Confusion.from_list(content["cell"]),
            Calibration.from_list(content["calibration"]),
            content["num_frames"],
        )


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
    counted = (_counted(frame, sensor, use_intensity) for frame in frames)
    for group in _groups(counted, batch):
        for frame, result in zip(group, label_frames(segmentor, group, sensor, use_intensity, device), strict=True):
            scores.add(frame, result)
    return scores


def _counted(frame: Keyframe, sensor: SensorSpec, use_intensity: bool) -> Keyframe:
    """The frame without the points that no model sees and no score counts: a quarter of the time of a small network.

    They are returns off the own car by the thousand, and each would look for its nearest neighbour.
    """
    if isinstance(sensor, ImageSensor) or len(frame.labels) != len(frame.points):
        return frame
    is_kept = usable(frame.points, sensor, use_intensity)
    is_kept |= frame.labels != IGNORE
    if is_kept.all() or not is_kept.any():
        return frame
    points, ring = np.compress(is_kept, frame.points, axis=0), frame.ring[is_kept] if len(frame.ring) else frame.ring
    return replace(frame, points=points, labels=frame.labels[is_kept], ring=ring)


def _groups(frames: Iterable[Keyframe], size: int) -> Iterator[list[Keyframe]]:
    iterator = iter(frames)
    while group := list(islice(iterator, size)):
        yield group

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

from ray_lidarseg.metrics import scoring
from ray_lidarseg.metrics.scoring import Scores, score
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import Keyframe, PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(4, 0.2, -0.5, min_range_m=2.0, max_range_m=50.0, intensity_scale=1.0)
CLASSES = 3


class ByIntensity(Segmentor):
    """Class of a point is its intensity times ten; the whole scan is one cell, which takes its first point's."""

    num_classes, feature_dim = CLASSES, 1

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def represent(self, batch: PointBatch) -> Cells:
        first = torch.searchsorted(batch.scan_idx, torch.arange(batch.num_scans))
        return Cells(batch.scan_idx, batch.labels[first], first)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        self.batch_sizes.append(batch.num_scans)
        cells = cells or self.represent(batch)
        wanted = (batch.points[:, 3] * 10).round().long()
        logits = nn.functional.one_hot(wanted, CLASSES).float()
        return Output(logits, batch.points[:, :1], logits[cells.geometry], cells, lambda: logits[cells.geometry])


def frame_of(said: list[int], truth: list[int]) -> Keyframe:
    points = np.array([[5.0 + row, 0, 0, said_class / 10] for row, said_class in enumerate(said)], np.float32)
    labels = np.array(truth, np.uint8)
    return Keyframe("a", "nuscenes", "scene", "val", 0, "scan.bin", points=points, labels=labels)


FRAMES = (
    frame_of([0, 0, 1, 2], [0, 1, 1, IGNORE]),
    frame_of([2, 2], [2, 0]),
    frame_of([1], [0]),
)


def test_counts_by_point_and_by_cell_worked_out_by_hand():
    scores = score(ByIntensity(), FRAMES, SENSOR, CLASSES, batch=2)
    assert scores.point.as_list() == [[1, 1, 1], [1, 1, 0], [0, 0, 1]]
    assert scores.cell.as_list() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert scores.num_frames == 3
    assert scores.point.miou() == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)


def test_batch_sizes_change_the_forwards_and_not_the_counts():
    one_by_one, together = ByIntensity(), ByIntensity()
    first = score(one_by_one, FRAMES, SENSOR, CLASSES, batch=1)
    second = score(together, iter(FRAMES), SENSOR, CLASSES, batch=8)
    assert one_by_one.batch_sizes == [1, 1, 1]
    assert together.batch_sizes == [3]
    assert first.point.as_list() == second.point.as_list()
    assert first.cell.as_list() == second.cell.as_list()


def test_parts_merge_to_the_whole():
    whole = score(ByIntensity(), FRAMES, SENSOR, CLASSES)
    parts = Scores.empty(CLASSES)
    for frame in FRAMES:
        assert parts.merge(score(ByIntensity(), [frame], SENSOR, CLASSES)) is parts
    assert parts.point.as_list() == whole.point.as_list()
    assert parts.cell.as_list() == whole.cell.as_list()
    assert parts.num_frames == 3


def test_frames_without_labels_are_left_out():
    scores = score(ByIntensity(), [frame_of([0, 1], [])], SENSOR, CLASSES)
    assert scores.num_frames == 0
    assert int(scores.point.counts.sum()) == 0
    assert np.isnan(scores.point.miou())


def test_points_no_model_may_see_count_as_well():
    points = np.array([[5, 0, 0, 0.1], [0.5, 0, 0, 0]], np.float32)
    frame = Keyframe("a", "nuscenes", "s", "val", 0, "x", points=points, labels=np.array([1, 2], np.uint8))
    scores = score(ByIntensity(), [frame], SENSOR, CLASSES)
    assert scores.point.as_list() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_mean_iou_equals_torchmetrics():
    rng = np.random.default_rng(3)
    frames = [frame_of(rng.integers(0, 3, 50).tolist(), rng.choice([0, 1, 2, IGNORE], 50).tolist()) for _ in range(4)]
    oracle = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=IGNORE)
    for frame in frames:
        said = torch.from_numpy((frame.points[:, 3] * 10).round().astype(np.int64))
        oracle.update(said, torch.from_numpy(frame.labels.astype(np.int64)))
    iou = score(ByIntensity(), frames, SENSOR, CLASSES, batch=3).point.iou()
    torch.testing.assert_close(iou, oracle.compute().double(), rtol=1e-6, atol=1e-6)


def test_returns_that_no_model_sees_and_no_score_counts_are_left_out_before(monkeypatch):
    frame = frame_of([0, 1, 2, 1, 2, 0], [0, IGNORE, 2, 1, IGNORE, 0])
    points = frame.points.copy()
    points[[1, 3], 0], points[4] = 0.5, np.nan  # off the own car: one with a label; and a broken one
    frame, seen = replace(frame, points=points, ring=np.arange(6, dtype=np.uint8)), []

    def watched(segmentor, frames, *others):
        seen.extend(frames)
        return label_frames(segmentor, frames, *others)

    monkeypatch.setattr(scoring, "label_frames", watched)
    scores = score(ByIntensity(), [frame], SENSOR, CLASSES)
    assert [(len(one.points), one.labels.tolist(), one.ring.tolist()) for one in seen] == [
        (4, [0, 2, 1, 0], [0, 2, 3, 5])
    ]
    whole = Scores.empty(CLASSES)
    whole.add(frame, label_frames(ByIntensity(), [frame], SENSOR)[0])
    assert scores.to_json() == whole.to_json()

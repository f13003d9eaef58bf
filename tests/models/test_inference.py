import numpy as np
import pytest
import torch
from torch import nn

from ray_lidarseg.models.inference import FALLBACK_CLASS, evaluating, label_frames, nearest_labels
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import Keyframe, PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(4, 0.2, -0.5, min_range_m=2.0, max_range_m=50.0, intensity_scale=1.0)


class ByHeight(Segmentor):
    """Class of a point is its z, rounded; a cell is a metre of x in a scan, its label the class of its last point."""

    def __init__(self, num_classes: int = 4, sharpness: float = 3.0) -> None:
        super().__init__()
        self.num_classes, self.feature_dim, self.sharpness = num_classes, 1, sharpness
        self.dropout = nn.Dropout(0.5)
        self.modes: list[bool] = []

    def represent(self, batch: PointBatch) -> Cells:
        key = batch.scan_idx * 1000 + batch.points[:, 0].floor().long()
        _, point_cell = key.unique(return_inverse=True)
        targets = torch.full((int(point_cell.max()) + 1 if len(point_cell) else 0,), IGNORE)
        targets[point_cell] = batch.labels
        return Cells(point_cell, targets, None)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        self.modes.append(self.training)
        cells = cells or self.represent(batch)
        height = batch.points[:, 2].round().long().clamp(0, self.num_classes - 1)
        logits = nn.functional.one_hot(height, self.num_classes) * self.sharpness
        cell_logits = torch.zeros(len(cells.targets), self.num_classes)
        cell_logits[cells.point_cell] = logits
        return Output(logits, batch.points[:, :1], cell_logits, cells, lambda: cell_logits)


def frame_of(rows: list[list[float]], labels: list[int] | None = None, frame_id: str = "a") -> Keyframe:
    points = np.array(rows, np.float32).reshape(-1, 4)
    return Keyframe(
        frame_id, "nuscenes", "scene", "val", 0, "scan.bin", points=points, labels=np.array(labels or [], np.uint8)
    )


def test_every_usable_point_gets_the_models_class_and_its_softmax():
    frame = frame_of([[5, 0, 1, 0], [6, 0, 3, 0], [7, 0, 0, 0]])
    (result,) = label_frames(ByHeight(), [frame], SENSOR)
    assert result.labels.tolist() == [1, 3, 0]
    expected = np.exp(3.0) / (np.exp(3.0) + 3)
    np.testing.assert_allclose(result.confidence, expected, rtol=1e-6)


def test_points_that_are_too_near_take_the_nearest_label_with_confidence_zero():
    frame = frame_of([[5, 0, 2, 0], [0.5, 0, 0, 0], [-9, 0, 1, 0], [-1, 0, 0, 0]])
    (result,) = label_frames(ByHeight(), [frame], SENSOR)
    assert result.labels.tolist() == [2, 2, 1, 2]  # the last one: 6.3 m to (5, 0, 2), 8.1 m to (-9, 0, 1)
    assert (result.confidence == 0).tolist() == [False, True, False, True]


def test_points_without_coordinates_take_the_most_frequent_label():
    nan = float("nan")
    frame = frame_of([[nan, nan, nan, 0], [5, 0, 3, 0], [6, 0, 1, 0], [7, 0, 1, 0], [float("inf"), 0, 0, 0]])
    (result,) = label_frames(ByHeight(), [frame], SENSOR)
    assert result.labels.tolist() == [1, 3, 1, 1, 1]
    assert result.confidence[[0, 4]].tolist() == [0, 0]


def test_a_point_whose_intensity_alone_is_nan_goes_by_its_position():
    frame = frame_of([[5, 0, 3, 0], [6, 0, 1, 0], [7, 0, 1, 0], [5.1, 0, 3, float("nan")]])
    (result,) = label_frames(ByHeight(), [frame], SENSOR)
    assert result.labels[3] == 3


def test_a_scan_without_a_usable_point_is_labelled_all_the_same():
    near, empty = label_frames(ByHeight(), [frame_of([[0.1, 0, 0.3, 0], [0, 0, 0, 0]]), frame_of([])], SENSOR)
    assert near.labels.tolist() == [FALLBACK_CLASS] * 2
    assert near.confidence.tolist() == [0, 0]
    assert len(near.cell_labels) == 0
    assert len(empty.labels) == 0


def test_a_batch_says_the_same_as_its_scans_alone():
    rng = np.random.default_rng(0)
    frames = [frame_of((rng.uniform(0, 9, (count, 4))).tolist(), [1] * count) for count in (40, 1, 17)]
    together = label_frames(ByHeight(), frames, SENSOR)
    for frame, result in zip(frames, together, strict=True):
        (alone,) = label_frames(ByHeight(), [frame], SENSOR)
        for name in ("labels", "confidence", "cell_labels", "cell_targets"):
            np.testing.assert_array_equal(getattr(result, name), getattr(alone, name))


def test_cells_carry_their_target_and_belong_to_their_scan():
    first = frame_of([[5.1, 0, 1, 0], [5.2, 0, 1, 0], [8, 0, 2, 0]], [1, 1, IGNORE])
    second = frame_of([[5.1, 0, 3, 0]], [0])
    one, two = label_frames(ByHeight(), [first, second], SENSOR)
    assert one.cell_labels.tolist() == [1, 2]
    assert one.cell_targets.tolist() == [1, IGNORE]
    assert two.cell_labels.tolist() == [3]
    assert two.cell_targets.tolist() == [0]


def test_no_frames_give_no_results():
    assert label_frames(ByHeight(), [], SENSOR) == []


def test_the_model_runs_in_evaluation_mode_and_gets_its_own_mode_back():
    model = ByHeight()
    model.train()
    model.dropout.eval()
    label_frames(model, [frame_of([[5, 0, 1, 0]])], SENSOR)
    assert model.modes == [False]
    assert model.training
    assert not model.dropout.training


def test_the_mode_comes_back_after_an_error():
    model = ByHeight()
    with pytest.raises(RuntimeError, match="boom"), evaluating(model):
        raise RuntimeError("boom")
    assert model.training


def test_nearest_label_equals_a_full_search():
    rng = np.random.default_rng(1)
    points, queries = rng.normal(size=(200, 3)), rng.normal(size=(50, 3))
    labels = rng.integers(0, 16, 200)
    squared = ((queries[:, None] - points[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest_labels(queries, points, labels), labels[squared.argmin(1)])

import math

import numpy as np
import pytest
import torch

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.splits import LabelSplit
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.training.diagnosis import Diagnosis, diagnosed_frames
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(4, math.radians(10), math.radians(-30), 1.0, 50.0, 1.0)


class Said:
    """What a segmentor says of points: the class stands in the intensity."""

    def __init__(self, shift: int = 0):
        self.shift = shift

    def __call__(self, batch):
        classes = (batch.points[:, 3].long() + self.shift) % 3
        return type("Output", (), {"point_logits": torch.nn.functional.one_hot(classes, 3).float()})()


class Method(torch.nn.Module):
    """Labels class 0 rightly, half of class 1 as 2, and says nothing of class 2."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def classifiers(self) -> dict[str, Segmentor]:
        return {"student": Said(1), "teacher": Said()}

    @property
    def deployed_model(self) -> torch.nn.Module:
        return self.norm

    def pseudo_labels(self, batch):
        assert (batch.labels == IGNORE).all()
        self.norm(batch.points)
        truth = batch.points[:, 3].long()
        is_second = torch.arange(len(truth)) % 2 == 1
        said = torch.where((truth == 1) & is_second, 2, truth)
        return torch.where(truth == 2, IGNORE, said)


def frames(*numbers: int) -> list[Keyframe]:
    found = []
    for number in numbers:
        points = np.ones((10, 4), np.float32) * 5
        labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 255], np.uint8)
        points[:, 3] = np.minimum(labels, 2)
        found.append(Keyframe(f"f{number}", "nuscenes", "s", "train", number, "p", "l", points=points, labels=labels))
    return found


def test_by_hand():
    method = Method().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    diagnosis = Diagnosis(frames(0, 1), Recipe(), SENSOR, 3, "skip", torch.device("cpu"), Ranks())
    (line,) = diagnosis(method, 7)
    assert (line["kind"], line["step"], line["frames"]) == ("diagnose", 7, 2)
    assert line["teacher_unlabelled_miou_ratio"] == 1.0
    assert line["student_unlabelled_miou_ratio"] == 0.0
    assert line["truth_ratio"] == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=1e-5)
    assert line["kept_ratio"] == [1.0, 1.0, 0.0]
    assert line["precision_ratio"] == [1.0, 1.0, 0.0]
    assert line["recall_ratio"] == [1.0, 0.5, 0.0]
    assert line["kept_total_ratio"] == pytest.approx(8 / 9, abs=1e-5)
    assert line["precision_total_ratio"] == pytest.approx(6 / 8)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.training


def test_the_deployed_model_is_scored_with_the_statistics_it_is_saved_with_and_makes_labels_without():
    class ByStatistics(Method):
        """A teacher that is right where its running mean is 9."""

        def classifiers(self):
            return {"student": Said(), "teacher": Said(0 if self.norm.running_mean[0] == 9.0 else 1)}

        def pseudo_labels(self, batch):
            assert self.norm.running_mean[0] == 0.0
            return super().pseudo_labels(batch)

    method, statistics = ByStatistics(), {"running_mean": torch.full((4,), 9.0)}
    diagnosis = Diagnosis(frames(0, 1), Recipe(), SENSOR, 3, "skip", torch.device("cpu"), Ranks())
    assert diagnosis(method, 1)[0]["teacher_unlabelled_miou_ratio"] == 0.0
    (line,) = diagnosis(method, 1, statistics)
    assert (line["student_unlabelled_miou_ratio"], line["teacher_unlabelled_miou_ratio"]) == (1.0, 1.0)
    assert method.norm.running_mean.tolist() == [0.0] * 4


def test_nothing_to_diagnose_is_no_line():
    assert Diagnosis([], Recipe(), SENSOR, 3, "skip", torch.device("cpu"), Ranks())(Method(), 1) == []


def test_a_method_without_pseudo_labels_has_scores_alone():
    method = Method()
    method.pseudo_labels = lambda _: None
    (line,) = Diagnosis(frames(0), Recipe(), SENSOR, 3, "skip", torch.device("cpu"), Ranks())(method, 1)
    assert "kept_ratio" not in line
    assert line["teacher_unlabelled_miou_ratio"] == 1.0


def test_the_frames_are_unlabelled_ones_with_labels_evenly_spread():
    ids = tuple(f"f{number}" for number in range(10))
    many = np.arange(10)
    catalog = Catalog(ids, ("d",) * 10, ("s",) * 10, ("train",) * 10, many, ("p",) * 10, many, many, many != 4)
    split = LabelSplit("uniform", 0.1, 0, ids[:1], ids[1:], "digest")
    assert diagnosed_frames(catalog, split, 3).frame_id == ("f1", "f6", "f9")  # of 1 2 3 5 6 7 8 9
    assert len(diagnosed_frames(catalog, split, 50)) == 8
    assert len(diagnosed_frames(catalog, split, 0)) == 0

import numpy as np
import pytest
import torch

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.metrics.zero_shot import LanguageScores
from ray_lidarseg.models.word_classifier import Words

EYE = np.eye(3, dtype=np.float32)
WORDS = Words().read(TextEmbeddings(EYE[:2], np.array([0, 1]), ("car", "road"), EYE[2:]))


def scores(frames) -> LanguageScores:
    found = LanguageScores(2)
    for name in frames:
        add(found, name)
    return found


def add(found: LanguageScores, name: str) -> None:
    points = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    images = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found.add(name, torch.tensor([0, 1, 1, 1]), points, images, torch.tensor([True, True, False, False]), WORDS)


def test_points_images_and_the_surer_of_both_by_hand():
    result = scores(["a"]).result("skip")["zero_shot"]
    # points: car right, road as car, road rejected, road right
    assert result["points"]["iou_ratio"] == [1 / 2, 1 / 3]
    assert result["points"]["rejected_ratio"] == 0.25
    assert result["points"]["miou_ratio"] == pytest.approx(5 / 12)
    # images: only the two paired points, both right
    assert (result["images"]["iou_ratio"], result["images"]["points"]) == ([1.0, 1.0], 2)
    # the second point's image is surer (1 > 0.8); the third has none
    assert result["ensemble"]["iou_ratio"] == [1.0, 2 / 3]


def test_parts_of_other_processes_merge_into_the_whole():
    whole = scores(["a", "b", "c"])
    merged = scores(["c"]).merge_bytes(scores(["a", "b"]).to_bytes())
    assert merged.result("skip") == whole.result("skip")
    assert merged.plane() == whole.plane()
    assert whole.result("skip")["structure"]["counts"] == (3, 3)


def test_a_frame_brings_no_more_of_a_class_than_it_may():
    found = LanguageScores(2, per_frame=1)
    rows = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    found.add("a", torch.zeros(20, dtype=torch.int64), rows, rows, torch.ones(20, dtype=torch.bool), WORDS)
    assert found.result("skip")["structure"]["counts"] == (1, 0)


def test_the_plane_shows_both_features_on_the_axes_of_the_images():
    found = LanguageScores(1)
    images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0], [1.0, 0.0, 0.5]]), dim=1)
    labels, paired = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    found.add("a", labels, images, images, paired, Words().read(TextEmbeddings(EYE[:1], np.array([0]), ("car",))))
    plane = np.array(found.plane())
    assert plane.shape == (3, 5)
    np.testing.assert_allclose(plane[:, 1:3], plane[:, 3:], atol=1e-3)
    assert np.ptp(plane[:, 1]) > np.ptp(plane[:, 2])
    assert scores([]).plane() == []

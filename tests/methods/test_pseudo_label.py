import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.methods.pseudo_label import balanced_pseudo_labels, class_thresholds, keep_ratio, pseudo_labels
from ray_lidarseg.types import IGNORE


def test_by_hand():
    logits = torch.tensor([[math.log(9.0), 0.0], [0.0, math.log(3.0)], [0.0, 0.1]])  # 0.9, 0.75, 0.525
    assert pseudo_labels(logits, 0.7).tolist() == [0, 1, IGNORE]
    assert pseudo_labels(logits, 0.8).tolist() == [0, IGNORE, IGNORE]
    assert pseudo_labels(logits, 0.7).dtype == torch.int64
    assert float(keep_ratio(pseudo_labels(logits, 0.7))) == pytest.approx(2 / 3)


def test_zero_keeps_all_and_one_keeps_none_even_when_saturated():
    logits = 1e4 * torch.eye(3)
    assert pseudo_labels(logits, 0.0).tolist() == [0, 1, 2]
    assert pseudo_labels(logits, 1.0).tolist() == [IGNORE] * 3


def test_no_points():
    labels = pseudo_labels(torch.zeros(0, 3), 0.9)
    assert labels.shape == (0,)
    assert float(keep_ratio(labels)) == 0.0


def test_class_thresholds_by_hand():
    confidences = [(0, 0.9), (1, 0.6), (0, 0.5), (0, 0.8), (1, 0.7), (0, 0.7)]
    probability = torch.zeros(6, 3)
    for row, (label, confidence) in enumerate(confidences):
        probability[row] = (1 - confidence) / 2
        probability[row, label] = confidence
    found, count = class_thresholds(probability, 0.5)
    assert count.tolist() == [4, 2, 0]
    assert found.tolist() == pytest.approx([0.8, 0.7, 1.0])  # the better half: 0.9 0.8 | 0.7 0.5, and 0.7 | 0.6
    assert class_thresholds(probability, 0.0)[0].tolist() == pytest.approx([0.9, 0.7, 1.0])
    assert class_thresholds(probability, 1.0)[0].tolist() == pytest.approx([0.5, 0.6, 1.0])
    assert class_thresholds(probability[:0], 0.5)[0].tolist() == [1.0, 1.0, 1.0]


@given(num_points=st.integers(1, 60), portion=st.floats(0, 1), seed=st.integers(0, 100))
def test_the_portion_of_each_class_reaches_its_threshold(num_points, portion, seed):
    probability = torch.randn(num_points, 4, generator=torch.Generator().manual_seed(seed)).softmax(1)
    thresholds, count = class_thresholds(probability, portion)
    confidence, label = probability.max(1)
    for number in range(4):
        of_class = confidence[label == number]
        assert int(count[number]) == len(of_class)
        if len(of_class):
            expected = max(1, math.ceil(portion * len(of_class) - 1e-9))
            assert int((of_class >= thresholds[number]).sum()) == expected


def test_balanced_labels_prefer_the_class_that_is_rarely_sure():
    probability = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]])
    assert balanced_pseudo_labels(probability, torch.tensor([0.8, 0.3])).tolist() == [1, 0, 1]
    assert balanced_pseudo_labels(probability, torch.tensor([0.8, 0.8])).tolist() == [IGNORE, 0, IGNORE]

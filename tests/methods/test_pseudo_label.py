import math

import pytest
import torch

from ray_lidarseg.methods.pseudo_label import keep_ratio, pseudo_labels
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

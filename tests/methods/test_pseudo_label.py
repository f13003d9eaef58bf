import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.methods.pseudo_label import (
    PseudoLabeller,
    balanced_pseudo_labels,
    class_thresholds,
    keep_ratio,
    pseudo_labels,
)
from ray_lidarseg.recipe import schema
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


NONE = torch.zeros(0, dtype=torch.int64)


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).log()


def labeller(rule: str, **settings) -> PseudoLabeller:
    return PseudoLabeller(2, schema.LaserMix(confidence=0.8, pseudo_rule=rule, **settings))


def test_the_rule_of_the_paper_has_no_state():
    plain = labeller("confidence")
    scores = logits((0.9, 0.1), (0.3, 0.7))
    assert plain(scores, NONE, 0.0).tolist() == pseudo_labels(scores, 0.8).tolist()
    plain.after_step()
    assert not plain.state_dict()


def test_flexmatch_by_hand():
    flex = labeller("flexmatch", pseudo_memory=0.0)
    # of ten points six are class 0 and three class 1 with more than 0.8: beta = (1, 0.5), thresholds 0.8 and 0.8 / 3
    scores = logits(*[(0.9, 0.1)] * 6, *[(0.1, 0.9)] * 3, (0.4, 0.6))
    assert flex(scores, NONE, 0.0).tolist() == [0] * 6 + [1] * 4
    flex.after_step()
    assert flex.preview(logits((0.75, 0.25), (0.45, 0.55))).tolist() == [IGNORE, 1]


def test_flexmatch_is_open_while_it_knows_nothing():
    flex = labeller("flexmatch", pseudo_memory=0.0)
    # one of ten is sure: 1 - sum is 0.9, so beta is 1/9 and its threshold 0.8 / 17; class 1 was never sure: 0
    assert flex(logits((0.9, 0.1), *[(0.4, 0.6)] * 9), NONE, 0.0).tolist() == [0] + [1] * 9


def test_quantile_keeps_the_share_of_every_class():
    rule = labeller("quantile", pseudo_portion=0.5, pseudo_memory=0.0)
    scores = logits((0.95, 0.05), (0.9, 0.1), (0.85, 0.15), (0.4, 0.6), (0.3, 0.7), (0.25, 0.75), (0.45, 0.55))
    rule(scores, NONE, 0.0)
    rule.after_step()
    # class 0: half of three reach 0.9, but 0.8 is enough; class 1: half of four reach 0.7
    assert rule.preview(scores).tolist() == [0, 0, 0, IGNORE, 1, 1, IGNORE]
    assert rule.preview(logits((0.79, 0.21), (0.29, 0.71))).tolist() == [IGNORE, 1]


@pytest.mark.parametrize("steps", [1, 40])
def test_quantile_keeps_the_points_at_it_and_those_as_sure(steps):
    rule = PseudoLabeller(2, schema.LaserMix(confidence=0.95, pseudo_rule="quantile", pseudo_portion=1.0))
    scores = logits(*[(0.9, 0.1)] * 4, (0.9, 0.1), (0.3, 0.7))  # points of one voxel share their scores
    for step in range(steps):  # the sums are rounded, and stay a quantile
        assert rule(scores, NONE, step / steps).tolist() == [0] * 5 + [1]
        rule.after_step()
    assert rule.preview(scores).tolist() == [0] * 5 + [1]
    below = PseudoLabeller(2, schema.LaserMix(confidence=0.95, pseudo_rule="quantile", pseudo_portion=1.0))
    assert below(logits(*[(0.9, 0.1)] * 4, (0.8, 0.2)), NONE, 0.0).tolist() == [0] * 5


def test_quantile_leaves_a_class_it_has_not_met_to_the_confidence():
    rule = labeller("quantile", pseudo_portion=0.5, pseudo_memory=0.0)
    rule(logits((0.9, 0.1)), NONE, 0.0)
    rule.after_step()
    assert rule.preview(logits((0.3, 0.7), (0.1, 0.9))).tolist() == [IGNORE, 1]


@pytest.mark.parametrize("rule", ["flexmatch", "quantile", "alignment"])
def test_before_the_first_step_a_rule_with_statistics_has_no_preview(rule):
    balanced, scores = labeller(rule), logits((0.9, 0.1), (0.2, 0.8))
    assert balanced.preview(scores) is None
    balanced(scores, torch.tensor([0, 1]), 0.0)
    assert balanced.preview(scores) is None
    balanced.after_step()
    assert balanced.preview(scores) is not None
    assert labeller("confidence").preview(scores).tolist() == [0, IGNORE]


def test_alignment_by_hand():
    rule = labeller("alignment", pseudo_memory=0.0)
    # the teacher says (0.8, 0.2) on average, the labels (0.5, 0.5): factors 0.625 and 2.5
    scores, labels = logits(*[(0.8, 0.2)] * 4), torch.tensor([0, 1, 1, 0, IGNORE])
    assert rule(scores, labels, 0.0).tolist() == [IGNORE] * 4  # (0.5, 0.5)
    rule.after_step()
    assert rule.preview(logits((0.3, 0.7), (0.97, 0.03))).tolist() == [1, 0]  # 0.903 and 0.89
    assert rule.preview(logits((0.9, 0.1))).tolist() == [IGNORE]  # 0.69


def test_statistics_are_averages_over_steps_and_a_skipped_step_leaves_none():
    rule = labeller("alignment", pseudo_memory=0.75)
    for progress, probability, count in ((0.0, 0.9, 10), (0.1, 0.5, 30)):
        rule(logits(*[(probability, 1 - probability)] * count), torch.tensor([0, 1]), progress)
        rule.after_step()
    rule(logits((0.1, 0.9)), torch.tensor([1]), 0.2)  # skipped
    # weights 0.75 of the older ten points and 1 of the newer thirty
    share = rule.statistics[0] / rule.statistics[1]
    assert share.tolist() == pytest.approx([(0.75 * 9 + 15) / 37.5, (0.75 * 1 + 15) / 37.5])
    assert (rule.statistics[2] / rule.statistics[3]).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("rule", ["flexmatch", "quantile", "alignment"])
def test_no_points_and_no_labels_are_no_error(rule):
    balanced = labeller(rule)
    assert balanced(torch.zeros(0, 2), NONE, 0.0).shape == (0,)
    balanced.after_step()
    assert balanced.preview(torch.zeros(3, 2)) is None  # nothing was counted
    assert torch.isfinite(balanced.statistics).all()


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="pseudo_portion has no effect with pseudo_rule flexmatch"):
        schema.LaserMix(pseudo_rule="flexmatch", pseudo_portion=0.2)
    with pytest.raises(ValueError, match="pseudo_memory has no effect with pseudo_rule confidence"):
        schema.LaserMix(pseudo_memory=0.5)

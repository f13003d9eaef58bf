import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.methods.segment_labels import entropy_of, segment_labels, summary
from ray_lidarseg.types import IGNORE

SURE, TORN, EVEN = [0.97, 0.03], [0.6, 0.4], [0.5, 0.5]


def of(rows, groups, **settings):
    probability, groups = torch.tensor(rows), torch.tensor(groups)
    settings = {"entropy_threshold": 0.5, **settings}
    is_valid = settings.pop("is_valid", torch.ones(len(groups), dtype=torch.bool))
    return segment_labels(probability, groups, is_valid, **settings)


def test_entropy_is_one_for_no_idea_and_zero_for_certainty_whatever_the_number_of_classes():
    for num_classes in (2, 16, 19):
        even = torch.full((1, num_classes), 1 / num_classes)
        certain = torch.eye(num_classes)[:1]
        torch.testing.assert_close(entropy_of(torch.cat([even, certain])), torch.tensor([1.0, 0.0]))
    # a top class of 0.9 with the rest on one of 15 rivals: 0.325 nats of 2.773
    peaked = torch.tensor([[0.9, 0.1, *[0.0] * 14]])
    assert entropy_of(peaked).item() == pytest.approx(0.3251 / math.log(16), abs=1e-3)


def test_undecided_pixels_keep_no_segment():
    found = of([EVEN] * 4, [3, 3, 3, 3], entropy_threshold=0.99)
    assert found.label.tolist() == [IGNORE]
    assert found.of_members.tolist() == [IGNORE] * 4


def test_a_confident_interior_labels_the_uncertain_border():
    """Two sure votes for class 0 and two torn ones for class 1; only the sure ones have a vote."""
    rows = [SURE, SURE, TORN[::-1], TORN[::-1]]
    voting = of(rows, [7] * 4, pixel_entropy_threshold=0.5, entropy_threshold=0.3)
    assert voting.of_members.tolist() == [0] * 4
    assert voting.entropy.item() == pytest.approx(entropy_of(torch.tensor([SURE])).item())
    assert of(rows, [7] * 4, entropy_threshold=0.3).label.tolist() == [IGNORE]  # all vote: mean 0.685, entropy 0.9


def test_pixels_without_a_segment_or_not_valid_neither_vote_nor_get_a_label():
    rows = [SURE, SURE, SURE[::-1], SURE[::-1]]
    found = of(rows, [5, 5, 5, 0], is_valid=torch.tensor([True, True, False, True]))
    assert found.group.tolist() == [5]
    assert found.of_members.tolist() == [0, 0, IGNORE, IGNORE]


def test_segments_seen_by_few_are_not_kept():
    rows, groups = [SURE] * 5, [1, 1, 2, 2, 2]
    assert of(rows, groups, min_members=3).label.tolist() == [IGNORE, 0]
    assert of(rows, groups, min_members=2).label.tolist() == [0, 0]


def test_one_voter_does_not_speak_for_a_segment_that_asks_for_more():
    rows = [SURE, *[TORN] * 5]
    assert of(rows, [1] * 6, pixel_entropy_threshold=0.5, min_members=2).label.tolist() == [IGNORE]
    assert of([SURE, *rows], [1] * 7, pixel_entropy_threshold=0.5, min_members=2).of_members.tolist() == [0] * 7


def test_a_segment_without_any_vote_is_not_kept():
    found = of([TORN, TORN], [1, 1], pixel_entropy_threshold=0.1, entropy_threshold=1.0)
    assert found.label.tolist() == [IGNORE]
    assert found.entropy.tolist() == [1.0]


def test_no_pixels_at_all():
    found = segment_labels(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), 0.5)
    assert len(found.group) == len(found.of_members) == 0
    assert found.of(torch.tensor([4])).tolist() == [IGNORE]
    assert float(summary(found, 3)["segment_keep_ratio"]) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_equals_a_plain_loop_and_keeps_more_the_higher_the_threshold(seed, count):
    generator = torch.Generator().manual_seed(seed)
    probability = (3 * torch.randn(count, 4, generator=generator)).softmax(1)
    groups = torch.randint(0, 6, (count,), generator=generator)
    is_valid = torch.rand(count, generator=generator) < 0.8
    kept = []
    for threshold in (0.1, 0.4, 0.7):
        found = segment_labels(probability, groups, is_valid, threshold, 0.8, 2)
        expected = torch.full((count,), IGNORE)
        for group in range(1, 6):
            members = (groups == group) & is_valid
            voters = members & (entropy_of(probability) <= 0.8)
            if voters.sum() >= 2:
                mean = probability[voters].mean(0)
                if entropy_of(mean[None]).item() < threshold:
                    expected[members] = mean.argmax()
        assert torch.equal(found.of_members, expected)
        kept.append(int((found.label != IGNORE).sum()))
    assert kept == sorted(kept)


def test_labels_of_segments_can_be_asked_for_other_members():
    found = of([SURE, SURE[::-1], EVEN], [4, 9, 11])
    assert found.of(torch.tensor([9, 4, 11, 5, 0, 99])).tolist() == [1, 0, IGNORE, IGNORE, IGNORE, IGNORE]


def test_the_log_line_counts_what_one_can_count():
    found = of([SURE, SURE, SURE[::-1], EVEN], [1, 1, 2, 3])
    truth = torch.tensor([0, 1, 1, 0, IGNORE])
    label = torch.tensor([0, 0, 1, IGNORE, 1])
    stats = {name: float(value) for name, value in summary(found, 2, truth, label).items()}
    assert [stats[f"pseudo_{name}_count"] for name in ("right", "labelled", "known")] == [2.0, 3.0, 4.0]
    assert stats["segment_keep_ratio"] == pytest.approx(2 / 3)
    assert stats["segment_entropy_below_0.2_bin_ratio"] == pytest.approx(2 / 3)  # 0.97 against 0.03 is 0.194
    assert stats["segment_entropy_above_0.4_bin_ratio"] == pytest.approx(1 / 3)
    assert (stats["pseudo_class_0_count"], stats["pseudo_class_1_count"]) == (2.0, 1.0)
    assert stats["pseudo_precision_ratio"] == pytest.approx(2 / 3)
    assert stats["pseudo_recall_ratio"] == pytest.approx(2 / 4)

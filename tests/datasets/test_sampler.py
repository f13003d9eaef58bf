from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.datasets.sampler import StepSampler, class_balanced_repeats
from ray_lidarseg.types import IGNORE

small = st.integers(1, 13)


@given(seed=st.integers(0, 5), num_labelled=small, num_unlabelled=small, labelled=small, unlabelled=small)
def test_over_whole_passes_every_frame_occurs_equally_often(seed, num_labelled, num_unlabelled, labelled, unlabelled):
    sampler = StepSampler(seed, num_labelled, num_unlabelled, labelled, unlabelled)
    steps = [sampler.step(k) for k in range(num_labelled * num_unlabelled)]
    seen_labelled = Counter(index for step, _ in steps for index in step)
    seen_unlabelled = Counter(index for _, step in steps for index in step)
    assert seen_labelled == dict.fromkeys(range(num_labelled), num_unlabelled * labelled)
    assert seen_unlabelled == dict.fromkeys(range(num_unlabelled), num_labelled * unlabelled)


@given(seed=st.integers(0, 5), num_frames=small, per_step=small)
def test_each_pass_holds_each_frame_once(seed, num_frames, per_step):
    sampler = StepSampler(seed, num_frames, 1, per_step, 0)
    walked = [index for k in range(3 * num_frames) for index in sampler.step(k)[0]]
    for start in range(0, len(walked) - num_frames + 1, num_frames):
        assert sorted(walked[start : start + num_frames]) == list(range(num_frames))


@given(seed=st.integers(0, 5), k=st.integers(0, 10_000))
def test_resuming_at_a_step_equals_continuing_to_it(seed, k):
    fresh, walked = StepSampler(seed, 11, 57, 3, 4), StepSampler(seed, 11, 57, 3, 4)
    for before in range(max(0, k - 3), k):
        walked.step(before)
    assert fresh.step(k) == walked.step(k)


def test_seeds_streams_and_passes_differ() -> None:
    sampler = StepSampler(0, 50, 50, 50, 50)
    labelled, unlabelled = sampler.step(0)
    assert labelled != unlabelled
    assert labelled != sampler.step(1)[0]
    assert labelled != StepSampler(1, 50, 50, 50, 50).step(0)[0]


def test_one_frame_fills_any_batch() -> None:
    assert StepSampler(0, 1, 0, 4, 0).step(9) == ([0, 0, 0, 0], [])


def test_a_stream_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="4 unlabelled scans a step are asked for, but there are no unlabelled frames"):
        StepSampler(0, 3, 0, 4, 4)


def test_a_frame_comes_as_often_in_a_pass_as_asked_for():
    sampler = StepSampler(0, 3, 4, 2, 1, repeats=[1, 3, 2])
    first = [index for k in range(3) for index in sampler.step(k)[0]]
    assert sorted(first) == [0, 1, 1, 1, 2, 2]
    assert sorted(index for k in range(3, 6) for index in sampler.step(k)[0]) == sorted(first)
    assert sorted(index for k in range(4) for index in sampler.step(k)[1]) == [0, 1, 2, 3]


def test_repeats_by_hand():
    # class 0 in both frames alike, class 1 and 2 in the second alone: chances 1/6 and 5/6 of two frames
    labels = [np.array([0, 0, IGNORE]), np.array([0, 0, 1, 2])]
    assert class_balanced_repeats(labels) == [1, 2]
    # of ten frames the last alone holds nine of ten classes: 10 * (0.1 / 10 + 0.9), bounded
    many = [np.array([0])] * 9 + [np.arange(10)]
    assert class_balanced_repeats(many) == [1] * 9 + [9]
    assert class_balanced_repeats(many, most=4) == [1] * 9 + [4]


def test_frames_without_labels_come_once():
    assert class_balanced_repeats([np.array([IGNORE]), np.array([], np.uint8)]) == [1, 1]

import numpy as np
import pytest

from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.metrics.range_confusion import RangeConfusion
from ray_lidarseg.types import IGNORE


def test_points_count_in_their_range_and_all_in_the_sum():
    counted = RangeConfusion(2)
    range_m = np.array([0.0, 9.99, 10.0, 29.0, 30.0, 50.0, 900.0, np.nan, 5.0])
    truth = np.array([0, 0, 1, 1, 0, 0, 1, 1, IGNORE], np.uint8)
    said = np.array([0, 1, 1, 0, 0, 1, 1, 0, 0], np.uint8)
    counted.add(truth, said, range_m)
    assert [(name, part.as_list()) for name, part in counted.parts()] == [
        ("0-10 m", [[1, 1], [0, 0]]),
        ("10-20 m", [[0, 0], [0, 1]]),
        ("20-30 m", [[0, 0], [1, 0]]),
        ("30-50 m", [[1, 0], [0, 0]]),
        ("50 m-", [[0, 1], [1, 1]]),
    ]
    plain = Confusion(2)
    plain.add(truth, said)
    assert counted.total().as_list() == plain.as_list()


def test_parts_merge_and_lists_come_back():
    one, two = RangeConfusion(3), RangeConfusion(3)
    one.add(np.array([0, 1]), np.array([0, 2]), np.array([1.0, 60.0]))
    two.add(np.array([2]), np.array([2]), np.array([25.0]))
    assert one.merge(RangeConfusion.from_list(two.as_list())) is one
    assert int(one.counts.sum()) == 3
    assert one.total().as_list() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_other_shapes_and_ids_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match="counts of one shape"):
        RangeConfusion(2).merge(RangeConfusion(3))
    with pytest.raises(ValueError, match="counts of one shape"):
        RangeConfusion.from_list([[[0]]])
    with pytest.raises(ValueError, match="prediction must be a class"):
        RangeConfusion(2).add(np.array([0]), np.array([7]), np.array([1.0]))

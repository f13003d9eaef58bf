import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes.eval.lidarseg.utils import ConfusionMatrix
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.types import IGNORE

C = 5


def random_points(num_points: int, seed: int, classes: int = C) -> tuple[np.ndarray, np.ndarray]:
    """Truth over all C classes or IGNORE, predictions over the first ``classes``."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes + 1, num_points)
    truth[truth == classes] = IGNORE
    return truth.astype(np.uint8), random.integers(0, classes, num_points).astype(np.uint8)


def counted(truth, prediction) -> Confusion:
    confusion = Confusion(C)
    confusion.add(truth, prediction)
    return confusion


def test_by_hand():
    confusion = Confusion(3)
    confusion.add(torch.tensor([0, 0, 0, 1, IGNORE]), torch.tensor([0, 0, 1, 1, 2]))
    assert confusion.as_list() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    iou = confusion.iou()
    assert iou[:2].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert iou[2].isnan()
    assert confusion.miou() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert confusion.miou(absent="zero") == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert confusion.accuracy() == pytest.approx(3 / 4)


def test_a_class_only_predicted_counts_as_zero_not_as_absent():
    confusion = Confusion(3)
    confusion.add(torch.tensor([0, 0]), torch.tensor([0, 2]))
    assert confusion.iou()[2] == 0.0
    assert confusion.miou() == pytest.approx((0.5 + 0.0) / 2)


def test_nothing_counted_is_nan_not_an_error():
    confusion = counted(np.full(4, IGNORE, np.uint8), np.zeros(4, np.uint8))
    assert np.isnan([confusion.miou(), confusion.accuracy()]).all()
    assert confusion.miou(absent="zero") == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [C, C - 2])  # fewer classes: two are absent everywhere
def test_parity_with_torchmetrics(seed, classes):
    truth, prediction = (torch.from_numpy(ids).long() for ids in random_points(400, seed, classes))
    confusion = counted(truth, prediction)
    oracle = MulticlassConfusionMatrix(C, ignore_index=IGNORE)(prediction, truth)
    assert torch.equal(confusion.counts, oracle.long())
    macro = MulticlassJaccardIndex(C, ignore_index=IGNORE, average="none")(prediction, truth)
    torch.testing.assert_close(confusion.iou().nan_to_num(0.0).float(), macro)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [C, C - 2])
def test_parity_with_the_nuscenes_devkit(seed, classes):
    truth, prediction = random_points(400, seed, classes)
    oracle = ConfusionMatrix(C + 1, ignore_idx=0)  # there: 0 is ignored, classes are 1 … C
    oracle.update(np.where(truth == IGNORE, 0, truth.astype(int) + 1), prediction.astype(int) + 1)
    confusion = counted(truth, prediction)
    assert np.array_equal(confusion.counts.numpy(), oracle.global_cm[1:, 1:])
    np.testing.assert_allclose(confusion.iou().numpy(), oracle.get_per_class_iou()[1:], rtol=1e-6)
    assert confusion.miou() == pytest.approx(oracle.get_mean_iou(), rel=1e-6)


@pytest.mark.parametrize("wrong", [C, IGNORE, -1])
def test_a_prediction_that_is_no_class_is_refused_and_counts_nowhere(wrong):
    confusion = Confusion(C)
    with pytest.raises(ValueError, match=r"prediction must be a class in 0\.\.4.*got \[" + str(wrong)):
        confusion.add(torch.tensor([1, 2]), torch.tensor([1, wrong]))
    assert confusion.counts.sum() == 0


def test_a_raw_id_in_the_truth_is_refused():
    with pytest.raises(ValueError, match=r"truth must be a class.*got \[40\].*taxonomy"):
        counted(torch.tensor([1, 40]), torch.tensor([1, 2]))


def test_predictions_under_ignored_truth_may_be_anything():
    assert counted(torch.tensor([IGNORE]), torch.tensor([IGNORE])).counts.sum() == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(0, 1000))
def test_parts_merge_to_the_whole(sizes, seed):
    truth, prediction = random_points(sum(sizes), seed)
    total = Confusion(C)
    start = 0
    for size in sizes:
        part = counted(truth[start : start + size], prediction[start : start + size])
        before = part.as_list()
        total = total + part
        assert part.as_list() == before
        start += size
    whole = counted(truth, prediction)
    assert torch.equal(total.counts, whole.counts)
    assert torch.equal(Confusion.from_list(whole.as_list()).merge(Confusion(C)).counts, whole.counts)


def test_only_equals_merge():
    with pytest.raises(ValueError, match="5 classes cannot take one of 4"):
        Confusion(5).merge(Confusion(4))
    with pytest.raises(ValueError, match="square"):
        Confusion.from_list([[1, 2]])


def test_counts_beyond_float32_stay_exact():
    confusion = Confusion.from_list([[2**24, 0], [0, 0]])
    confusion.add(torch.tensor([0]), torch.tensor([0]))
    assert confusion.counts[0, 0] == 2**24 + 1


RANK = """
import sys, torch, torch.distributed as dist
from ray_lidarseg.metrics.confusion import Confusion
rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
confusion = Confusion(2)
confusion.add(torch.tensor([0, 1]), torch.tensor([rank, 1]))
confusion.all_reduce()
print(confusion.as_list())
dist.destroy_process_group()
"""


def test_all_reduce_sums_over_ranks(tmp_path):
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    assert [rank.communicate(timeout=120)[0].strip() for rank in ranks] == ["[[1, 1], [0, 2]]"] * 2


def test_all_reduce_alone_changes_nothing():
    confusion = counted(*random_points(50, 0))
    before = confusion.as_list()
    confusion.all_reduce()
    assert confusion.as_list() == before

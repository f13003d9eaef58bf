import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from ray_lidarseg.metrics.calibration import NUM_BINS, Calibration
from ray_lidarseg.types import IGNORE


def test_error_worked_out_by_hand():
    """Four points at 0.9, of which two are right: 0.4 off; one at 0.5 that is right: 0.5 off."""
    counted = Calibration()
    counted.add(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1]), np.array([0.9, 0.9, 0.9, 0.9, 0.5]))
    assert counted.error() == pytest.approx((4 * 0.4 + 0.5) / 5, abs=1e-6)
    curve = counted.curve()
    assert curve[13] == (4, pytest.approx(0.9, abs=1e-6), 0.5)
    assert curve[7] == (1, 0.5, 1.0)
    assert curve[0] == (0, None, None)


def test_equals_torchmetrics():
    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.dirichlet(np.ones(4), 500)).float()
    truth = torch.from_numpy(rng.integers(0, 4, 500))
    sure, said = share.max(dim=1)
    counted = Calibration()
    counted.add(truth.numpy(), said.numpy(), sure.numpy())
    oracle = multiclass_calibration_error(share, truth, 4, n_bins=NUM_BINS, norm="l1")
    assert counted.error() == pytest.approx(float(oracle), abs=1e-5)


def test_points_nobody_saw_and_without_truth_are_not_counted():
    counted = Calibration()
    counted.add(np.array([IGNORE, 1]), np.array([0, 1]), np.array([0.9, 0.0], np.float32))
    assert counted.counts.sum() == 0
    assert math.isnan(counted.error())


def test_the_sum_does_not_depend_on_the_order_or_the_groups():
    rng = np.random.default_rng(1)
    truth, said = rng.integers(0, 3, (2, 999))
    sure = rng.uniform(0.3, 1.0, 999).astype(np.float32)
    whole, parts = Calibration(), Calibration()
    whole.add(truth, said, sure)
    for place in np.array_split(rng.permutation(999), 7):
        part = Calibration()
        part.add(truth[place], said[place], sure[place])
        parts.merge(Calibration.from_list(part.as_list()))
    assert parts.as_list() == whole.as_list()
    assert whole.counts[0].sum() == 999


def test_another_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="expected shape"):
        Calibration.from_list([[0], [0], [0]])

"""What the benchmark of corruptions measures on."""

import sys

import numpy as np

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions.channels import channels
from tests.bench import corruptions


def test_scans_are_of_real_size_and_labelled():
    frame = corruptions.frame_of(nuscenes.SPEC, 0)
    assert len(frame.points) == 32 * 1084
    assert frame.points[:, 3].max() <= 1.0
    assert np.isin(frame.labels, nuscenes.SPEC.ground).sum() > 1000
    kitti = corruptions.frame_of(semantickitti.SPEC, 0)
    assert np.unique(channels(kitti, semantickitti.SPEC.sensor)).tolist() == list(range(64))


def test_too_slow_fails(monkeypatch, capsys):
    row = {"commit": "c", "hardware": "h", "light": 0.1, "moderate": 0.1, "heavy": 0.2}
    monkeypatch.setattr(corruptions.Ledger, "measure", lambda _, key, work: {**key, **row})
    monkeypatch.setattr(sys, "argv", ["corruptions", "--quick"])
    assert corruptions.main() == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("FAILED")

"""What the benchmark of corruptions measures on."""

import sys

import numpy as np
import pytest

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


@pytest.mark.parametrize(("passes", "status", "word"), [(4.0, 0, "ok"), (21.0, 1, "FAILED")])
def test_what_takes_too_many_plain_passes_fails(monkeypatch, capsys, passes, status, word):
    times = dict.fromkeys(("light", "moderate", "heavy"), passes * 0.1)
    row = {"commit": "c", "hardware": "h", **times, "plain_s": 0.1}
    monkeypatch.setattr(corruptions.Ledger, "measure", lambda _, key, work: {**key, **row})
    monkeypatch.setattr(sys, "argv", ["corruptions", "--quick"])
    assert corruptions.main() == status
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"nuscenes {passes:.1f}" in said
    assert said.endswith(word)


def test_a_plain_pass_reads_every_point_in_the_order_of_its_azimuth():
    points = np.array([[0, 2, 0, 1], [3, 0, 4, 1]], np.float32)
    expected = [[5, 0, np.arcsin(0.8)], [2, np.pi / 2, 0]]
    np.testing.assert_allclose(corruptions.plain_pass(points), expected, atol=1e-6)

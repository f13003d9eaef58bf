"""The command for the day there is a GPU runs everywhere, and fails where something does not hold."""

import json
import sys

import pytest
import torch

from ray_lidarseg.sparse.geometry import VoxelGeometry
from tests.gpu import acceptance, roofline


def test_it_runs_without_a_gpu_and_fails_where_a_backend_is_wrong(monkeypatch, tmp_path, capsys):
    flags = ["--device", "cpu", "--quick", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["acceptance", *flags])
    assert acceptance.main() == 0
    said = capsys.readouterr().out
    assert "torch unfolded" in said
    assert said.splitlines()[-1].endswith(": ok")
    rows = json.loads((tmp_path / "rows.json").read_text())
    by_part = {
        part: [row for row in rows if row["part"] == part] for part in dict.fromkeys(row["part"] for row in rows)
    }
    assert list(by_part) == ["rates", "parity", "steps", "teachers", "ingest", "training"]
    assert all(row["roof_ms"] > 0 for row in by_part["parity"])
    assert all(row["products_s"] > 0 for row in by_part["steps"])
    assert [(row["processes"], row["scans"]) for row in by_part["ingest"]] == [(1, 32), (2, 64)]


def test_the_roof_is_that_of_what_nobody_can_spare():
    """Two voxels in one column: the centre and one pair each way, by hand."""
    geometry = VoxelGeometry(torch.tensor([5, 6]), (1, 1, 8))
    num_bytes, num_flops = roofline.cost(geometry.submanifold(0), (3, 2), torch.float16, trains=False)
    assert num_flops == 2 * 4 * 3 * 2  # four products of a row of 3 with a 3 x 2 matrix
    assert num_bytes == 2 * (2 * 3 + 2 * 2 + 27 * 3 * 2) + 2 * 8
    more_bytes, more_flops = roofline.cost(geometry.submanifold(0), (3, 2), torch.float16, trains=True)
    assert more_flops == 3 * num_flops
    assert more_bytes == num_bytes + 2 * (2 * 6 + 4 + 2 * 27 * 6) + 2 * 8
    roof = roofline.Roof(100.0, {torch.float16: 10.0})
    assert roof.seconds(200, 5, torch.float16) == 2.0
    assert roof.seconds(200, 50, torch.float16) == 5.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"error": 2e-4}, r"parity, spconv, down, float32: error 2.0e-04, at most 1e-04"),
        ({"ms": float("nan")}, "parity, spconv, down, float32: ms is nan"),
        ({"refused": "an illegal access", "is_known": False}, "parity, spconv, down, float32: an illegal access"),
        ({"refused": "float16 only", "is_known": True}, None),
    ],
)
def test_what_does_not_hold_is_named(change, problem):
    row = {
        "part": "parity",
        "backend": "spconv",
        "case": "down",
        "type": "float32",
        "ms": 1.0,
        "error": 1e-6,
        "limit": 1e-4,
    }
    assert acceptance.problems([{**row, **change}]) == ([problem] if problem else [])

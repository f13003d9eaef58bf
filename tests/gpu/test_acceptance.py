"""The command for the day there is a GPU runs everywhere, and fails where something does not hold."""

import sys

import pytest

from tests.gpu import acceptance


def test_it_runs_without_a_gpu_and_fails_where_a_backend_is_wrong(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["acceptance", "--json", str(tmp_path / "rows.json")])
    assert acceptance.main() == 0
    said = capsys.readouterr().out
    assert "torch unfolded" in said
    assert said.splitlines()[-1].endswith(": ok")


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

"""What the benchmark of compiled parts refuses, and that it counts what is compiled late."""

import sys

import pytest

from tests.bench import compiled

ROW = {
    "backbone": "fidnet",
    "method": "supervised",
    "amp": "off",
    "precision": "float32",
    "late_graphs": 0,
    "plain_loss": 2.0,
    "compiled_loss": 2.001,
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"late_graphs": 2}, "fidnet supervised, amp off: 2 graphs were compiled after the first 2 steps"),
        ({"compiled_loss": 2.01}, "fidnet supervised, amp off: loss 2.01 is 5.0e-03 from 2.0"),
        ({"compiled_loss": 2.01, "precision": "bfloat16"}, None),
        ({"compiled_loss": float("nan")}, "fidnet supervised, amp off: loss nan is nan from 2.0"),
    ],
)
def test_what_does_not_hold_is_named(change, problem):
    assert compiled.problems([{**ROW, **change}]) == ([problem] if problem else [])


def test_a_row_is_measured_once(monkeypatch, tmp_path, capsys):
    figures = {"plain_s": 1.0, "compiled_s": 2.0, "gain": 0.5, "graphs": 4, "compiling_s": 30.0}
    calls = []
    monkeypatch.setattr(compiled, "measure", lambda *args: calls.append(args) or {**ROW, **figures})
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["compiled", "--quick", "--json", str(tmp_path / "rows.json")])
        assert compiled.main() == 0
        assert capsys.readouterr().out.endswith("fidnet supervised, amp off 0.50 times as fast: ok\n")
    assert len(calls) == 1

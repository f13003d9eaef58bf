"""What the benchmark of geometry in the loader refuses, and one quick run of it."""

import sys

import pytest

from tests.bench import host_geometry

ROW = {"backbone": "minkunet", "method": "lasermix", "is_same": True, "waits": 10, "waits_ahead": 6}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"is_same": False}, "minkunet lasermix: other losses with cells from the loader"),
        ({"waits_ahead": 11}, "minkunet lasermix: 11 waits with geometry ahead, 10 without"),
    ],
)
def test_what_does_not_hold_is_named(change, problem):
    assert host_geometry.problems([{**ROW, **change}]) == ([problem] if problem else [])


def test_a_quick_run_moves_something(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["host_geometry", "--quick"])
    assert host_geometry.main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("of a step's CPU time moved to the loader: minkunet")

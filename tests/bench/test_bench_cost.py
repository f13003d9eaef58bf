"""What the cost benchmark counts and refuses."""

import math
import re
import sys

import pytest
import torch

from tests.bench import cost

ROW = {"backbone": "fidnet", "method": "lasermix", "scans": 2, "step_s": 1.0, "loss": 2.0}
RIGHT = {"student_scans": 8, "teacher_scans": 4}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"student_scans": 10}, r"fidnet, lasermix: forwards of \(10, 4\) scans, expected \(8, 4\)"),
        ({"method": "supervised"}, r"fidnet, supervised: forwards of \(8, 4\) scans, expected \(2, 0\)"),
        ({"loss": math.nan}, "loss nan"),
        ({"step_s": math.inf}, "inf s"),
    ],
)
def test_other_forwards_than_the_algorithm_has_and_figures_without_meaning_are_named(changes, problem):
    found = cost.disagreements([{**ROW, **RIGHT, **changes}])
    assert bool(found) == (problem is not None)
    if problem:
        assert re.search(problem, found[0])


def test_memory_of_a_block_is_its_own_peak():
    kept = torch.ones(2**24)  # 64 MiB held before
    with cost.peak_memory(torch.device("cpu")) as outer:
        torch.ones(2**26)  # 256 MiB, freed again
    with cost.peak_memory(torch.device("cpu")) as nothing:
        pass
    assert len(kept)
    assert len(outer) == 1
    if sys.platform == "linux":
        assert outer[0] == pytest.approx(0.25, abs=0.03)
        assert nothing[0] == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("backbone", cost.BACKBONES)
def test_the_networks_are_those_of_the_recipes_at_the_width_asked_for(backbone):
    full, half = (cost.recipe(backbone, "lasermix", width).model for width in (1.0, 0.5))
    assert full.name == backbone
    assert half.width_factor == full.width_factor / 2
    assert cost.recipe(backbone, "supervised", 1.0).model == full


def test_a_quick_run_counts_forwards_of_both_networks_and_fails_where_they_are_others(monkeypatch, tmp_path, capsys):
    flags = ["--quick", "--backbones", "fidnet", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["cost", *flags])
    assert cost.main() == 0
    lines = capsys.readouterr().out.splitlines()
    columns = {line.split()[0]: line for line in lines if line.startswith(tuple(cost.FORWARDS))}
    assert "1 (1 scans)  0 (0 scans)" in columns["supervised"]
    assert "2 (2 scans)  2 (2 scans)" in columns["mean_teacher"]
    assert "3 (4 scans)  2 (2 scans)" in columns["lasermix"]
    assert "3 (4 scans)  2 (2 scans)" in columns["lasermix_pp"]
    assert lines[-1].endswith(": ok")
    monkeypatch.setattr(cost, "FORWARDS", {**cost.FORWARDS, "lasermix_pp": (5, 2)})
    assert cost.main() == 1  # the rows come from the file
    assert "FAILED" in capsys.readouterr().out.splitlines()[-1]

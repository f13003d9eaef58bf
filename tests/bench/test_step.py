"""What the benchmark of steps compares and refuses."""

import re
import sys

import pytest

from tests.bench import step

SHARED = {"backbone": "minkunet", "method": "lasermix", "step_s": 1.0, "last_loss": 5.0}
THEN = {**SHARED, "of": "against", "amp": "off", "precision": "float32", "first_loss": 6.0, "step_s": 3.0}
NOW = {**SHARED, "of": "now", "amp": "off", "precision": "float32", "first_loss": 6.003}
AUTO = {**SHARED, "of": "now", "amp": "auto", "precision": "bfloat16", "first_loss": 6.1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([{}, {}, {}], None),
        ([{}, {"first_loss": 6.01}, {}], r"minkunet, lasermix, now off: loss 6.01 is 1.7e-03 from 6.0"),
        ([{}, {}, {"first_loss": 6.3}], r"now auto: loss 6.3 is 4.9e-02 from 6.003"),
        ([{}, {}, {"precision": "float32"}], r"now auto: loss 6.1 is 1.7e-02 from 6.0"),
        ([{}, {"last_loss": float("nan")}, {}], "losses 6.003 and nan"),
        ([{"step_s": 0.0}, {}, {}], r"against off: 0\.0 s"),
    ],
)
def test_losses_that_are_not_the_same_are_named(changes, problem):
    rows = [{**row, **change} for row, change in zip((THEN, NOW, AUTO), changes, strict=True)]
    found = step.disagreements(rows)
    assert bool(found) == (problem is not None)
    if problem:
        assert re.search(problem, found[0])


def test_the_figure_is_lasermix_and_how_much_faster_it_is():
    other = {**NOW, "method": "supervised", "step_s": 0.2}
    assert (
        step._figure([THEN, NOW, AUTO, other])
        == "LaserMix step: minkunet off 1.00 s (3.0x), minkunet auto 1.00 s (3.0x)"
    )
    assert step._figure([NOW]) == "LaserMix step: minkunet off 1.00 s"


def test_a_quick_run_takes_turns_between_processes_and_fails_where_losses_differ(monkeypatch, tmp_path, capsys):
    flags = ["--quick", "--backbones", "fidnet", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["step", *flags])
    assert step.main() == 0
    assert re.search(r"LaserMix step: fidnet off [\d.]+ s, fidnet auto [\d.]+ s: ok", capsys.readouterr().out)
    monkeypatch.setattr(step, "disagreements", lambda rows: ["a loss"])
    assert step.main() == 1  # the rows come from the file
    assert capsys.readouterr().out.splitlines()[-1].endswith("FAILED")

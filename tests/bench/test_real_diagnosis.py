"""The benchmark that puts pseudo-labels of real scans beside those of the world."""

import json
import math
import sys

import pytest

from tests.bench import real_diagnosis
from tests.bench.real_diagnosis import common_are_kept, recipe

FRAMES = ("00/000000", "00/000001", "00/000002")


def test_each_scan_in_turn_is_labelled_and_another_one_held_back():
    turns = [recipe("/shards", FRAMES, turn, steps=10) for turn in range(3)]
    labelled, held = zip(*((turn.split.frames[0], turn.data.val_frames[0]) for turn in turns), strict=True)
    assert sorted(labelled) == sorted(held) == list(FRAMES)
    assert all(one != other for one, other in zip(labelled, held, strict=True))
    assert {turn.method.name for turn in turns} == {"lasermix"}


@pytest.mark.parametrize(
    ("truth", "kept", "wanted"),
    [
        ([0.6, 0.3, 0.1, 0.0], [0.9, 0.5, 0.1, None], 1.0),
        ([0.6, 0.3, 0.1, 0.0], [0.1, 0.5, 0.9, None], -1.0),
        ([0.6, 0.4, 0.0, 0.0], [0.5, 0.5, None, None], math.nan),
    ],
)
def test_whether_the_common_classes_are_kept(truth, kept, wanted):
    found = common_are_kept({"truth_ratio": truth, "kept_ratio": kept})
    assert found == pytest.approx(wanted, nan_ok=True)


def _row(source: str, turn: int, kept: float | None) -> dict:
    parts = {"truth_ratio": [0.0] + [0.5, 0.3, 0.2] + [0.0] * 15, "kept_ratio": [None, 0.9, 0.4, 0.1] + [None] * 15}
    parts |= {"precision_ratio": [None, 1.0, 0.5, 0.5] + [None] * 15, "kept_total_ratio": kept}
    return {"source": source, "turn": turn, "steps": 300, "precision_total_ratio": 0.8, "commit": "c", **parts}


@pytest.mark.parametrize(("kept", "status"), [(0.5, 0), (None, 1)])
def test_a_figure_that_is_missing_fails(kept, status, tmp_path, monkeypatch, capsys):
    rows = [_row(source, turn, 0.5 if turn else kept) for source in ("real", "world") for turn in range(3)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row | {"hardware": "h"} for row in rows]))
    monkeypatch.setattr(sys, "argv", ["real_diagnosis", "--json", str(file), "--show"])
    assert real_diagnosis.main() == status
    said = capsys.readouterr().out
    assert ("real: kept 50.0 ± 0.0 %, right 80.0 ± 0.0 %, common classes are kept by +1.00" in said) == (not status)


def test_samples_that_are_absent_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["real_diagnosis", "--samples", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        real_diagnosis.main()
    assert "none is absent: name a folder" in capsys.readouterr().err

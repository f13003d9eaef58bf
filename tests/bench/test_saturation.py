"""What the saturation benchmark concludes from its figures."""

import sys

import pytest

from ray_lidarseg.training.run_folder import differing_keys
from tests.bench import saturation


@pytest.mark.parametrize(
    ("first", "middle", "last", "is_good"),
    [(20, 30, 35, True), (20, 30, 34.9, False), (20, 36, 35.5, False), (31, 30, 50, False), (20, 20, 40, False)],
)
def test_means_must_rise_and_the_last_be_fifteen_points_above_the_first(first, middle, last, is_good):
    table = {0.01: [first - 1, first + 1], 0.1: [middle, middle], 1.0: [last - 3, last + 3]}
    good, sentence = saturation.verdict(table)
    assert good == is_good
    assert f"1% labels {first:.1f}, 10% labels {middle:.1f}, 100% labels {last:.1f}" in sentence
    assert f"gap {last - first:.1f}" in sentence


def test_a_figure_that_is_not_finite_fails():
    assert not saturation.verdict({0.01: [20.0], 0.1: [float("nan")], 1.0: [50.0]})[0]


def test_runs_differ_in_labels_and_seed_only():
    one, other = (saturation.recipe("shards", ratio, seed, 1000) for ratio, seed in ((0.01, 0), (1.0, 2)))
    assert set(differing_keys(one, other)) == {"split.ratio", "split.seed", "seed"}
    assert (other.split.ratio, other.split.seed, other.seed) == (1.0, 2, 2)
    assert one.train.evaluate_every == one.train.steps == 1000  # the last checkpoint counts: no selection


@pytest.mark.parametrize(("mious", "code"), [((0.2, 0.3, 0.4), 0), ((0.3, 0.35, 0.4), 1)])
def test_the_exit_code_is_the_verdict(monkeypatch, tmp_path, capsys, mious, code):
    def trained(ledger, jobs, at_once, prepare):
        scores = dict(zip((0.01, 0.1, 1.0), mious, strict=True))
        figures = {
            "labelled_frames": 12,
            "parameters": 1,
            "train_steps": 9,
            "iou_ratio": [0.5] * 15 + [None],
            "commit": "c",
            "hardware": "h",
        }
        return [{**job.key, **figures, "miou_ratio": scores[job.key["ratio"]]} for job in jobs]

    monkeypatch.setattr(saturation, "prepared_world", lambda *_: "shards")
    monkeypatch.setattr(saturation, "measure_all", trained)
    monkeypatch.setattr(sys, "argv", ["saturation", "--folder", str(tmp_path), "--seeds", "0", "1"])
    assert saturation.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("ok" if code == 0 else "FAILED") in last
    assert "bench-seed0" in last

"""What the LaserMix++ ablation trains and concludes."""

import json
import sys

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog, write_catalog
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.recipe.load import with_method
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training.run_folder import differing_keys
from tests.bench import lasermix_pp as ablation
from tests.bench.ladder import gain_of
from tests.bench.lasermix_pp import DISTILLATION, LADDER, LANGUAGE, PARTS, RUNGS

SWITCHES = {f"method.{name}" for name in ("distillation_weight", "language_weight", "multimodal_mix_weight")}
DETAILS = {"method.language_temperature", "method.language_centred"}


def recipe(name: str, ratio: float = 0.01, seed: int = 0, **overrides):
    return ablation.recipe("shards", "features-a/pairs-b", name, ratio, seed, overrides)


def test_the_table_holds_labels_only_at_three_lengths_and_both_ceilings():
    lengths = {name: recipe(name, 0.1).train.steps for name in ablation.LABELS_ONLY}
    assert lengths == {"sup-half": 3000, "sup-only": 6000, "sup-double": 12000}
    assert {recipe(name, 0.1).train.steps for name in set(LADDER) - lengths.keys()} == {6000}
    assert recipe("all-labels").split.ratio == 1.0
    assert [name for name in LADDER if RUNGS[name].is_never_wrong] == ["never-wrong"]
    assert recipe("never-wrong") == recipe("lasermix")


def test_labels_only_count_at_their_best_length():
    table = {("sup-half", 0.1): {0: 3.0}, ("sup-only", 0.1): {0: 2.0}, ("lasermix", 0.1): {0: 4.0}}
    assert ablation.labels_only(table, 0.1) == {0: 3.0}
    assert ablation.verdict(table, 0.1).startswith("LaserMix +1.0")


def test_the_authors_rules_are_those_of_their_code():
    method = recipe("authors").method
    assert (method.confidence, method.consistency_weight, method.ema_buffers) == (0.95, 500.0, "own")
    assert method.decay_over(60_000) == method.decay_over(100) == 0.99


@pytest.mark.parametrize("part", [part for part in PARTS if RUNGS[part[2]].method == "lasermix_pp"])
def test_rows_that_are_compared_differ_in_switches_only(part):
    _, ours, theirs = part
    assert set(differing_keys(recipe(ours), recipe(theirs))) <= SWITCHES | DETAILS
    assert recipe(ours).method != recipe(theirs).method


def test_each_row_switches_what_its_title_says():
    weights = {
        name: tuple(getattr(recipe(name).method, key.partition(".")[2]) for key in sorted(SWITCHES))
        for name in RUNGS
        if RUNGS[name].reads_evidence
    }
    assert weights == {  # distillation, language, multi-modal mixing
        "distillation": (DISTILLATION, 0.0, 0.0),
        "language": (0.0, LANGUAGE, 0.0),
        "both": (DISTILLATION, LANGUAGE, 0.0),
        "all": (DISTILLATION, LANGUAGE, 1.0),
        "softmax": (0.0, LANGUAGE, 0.0),
        "uncentred": (0.0, LANGUAGE, 0.0),
        "oracle": (DISTILLATION, LANGUAGE, 1.0),
    }
    assert [name for name in RUNGS if RUNGS[name].is_oracle] == ["oracle"]
    assert recipe("softmax").method.language_temperature == 0.01
    assert recipe("language").method.language_centred
    assert not recipe("uncentred").method.language_centred


def test_a_weight_of_another_size_counts_where_its_part_is_on():
    changed = {name: recipe(name, **{"method.language_weight": 10.0}) for name in RUNGS if RUNGS[name].reads_evidence}
    assert {name: own.method.language_weight for name, own in changed.items()} == {
        name: 10.0 * (name != "distillation") for name in changed
    }


def test_settings_are_chosen_on_training_scenes_alone(tmp_path):
    prepared, folder = tmp_path / "prepared", tmp_path / "tuning"
    frames = [
        Keyframe(f"{split}-{scene}", "nuscenes", f"{split}-{scene}", split, 0, "p", points=np.ones((1, 4), np.float32))
        for split, count in (("train", 12), ("val", 3))
        for scene in range(count)
    ]
    prepared.mkdir()
    write_shard(fs.LocalFileSystem(), str(prepared), frames)
    write_catalog(fs.LocalFileSystem(), str(prepared))
    for _ in range(2):
        ablation.hold_out(prepared, folder)
    catalog = read_catalog(fs.LocalFileSystem(), str(folder))
    train, val = (set(catalog.of_split(split).scene) for split in ("train", "val"))
    assert len(train) == 10
    assert len(val) == 2
    assert train | val == {f"train-{scene}" for scene in range(12)}
    held = catalog.of_split("val")
    assert PreparedFrames(fs.LocalFileSystem(), str(folder), held)[0].frame_id == held.frame_id[0]


@pytest.mark.parametrize("name", ["sup-only", "mean-teacher", "lasermix"])
def test_rows_without_evidence_share_everything_their_method_has(name):
    own, full = recipe(name), recipe("all")
    expected = with_method(full, RUNGS[name].method)
    rest = {"data.evidence", *RUNGS[name].changes}
    assert set(differing_keys(own, expected)) == rest
    assert own.data.evidence == ""
    assert full.data.evidence == "features-a/pairs-b"


def test_runs_of_a_row_differ_in_labels_and_seed_only():
    one, other = recipe("all"), recipe("all", 0.1, 2)
    rhythm = {"train.steps", "train.evaluate_every"}
    assert set(differing_keys(one, other)) == {"split.ratio", "split.seed", "seed", *rhythm}
    assert one.train.evaluate_every == one.train.steps  # the last checkpoint counts: no selection
    assert recipe("sup-only", **{"method.confidence": 0.8}) == recipe("sup-only")
    assert recipe("lasermix", **{"method.confidence": 0.8}).method.confidence == 0.8


def test_a_gain_counts_beyond_the_larger_spread():
    table = {("lasermix", 0.1): {0: 40.0, 1: 42.0, 2: 41.0}, ("language", 0.1): {0: 42.0, 1: 43.0, 2: 42.5}}
    gain, spread, num_better = gain_of(table["language", 0.1], table["lasermix", 0.1])
    assert (gain, spread, num_better) == (1.5, pytest.approx(1.0), 3)
    assert ablation.verdict(table, 0.1) == "language +1.5 (spread 1.0, better in 3 of 3): helps"
    table["language", 0.1] = {0: 41.0, 1: 42.0, 2: 42.0}
    assert ablation.verdict(table, 0.1).endswith("better in 2 of 3): within the spread")
    table["language", 0.1] = {0: 38.0, 1: 38.0, 2: 38.0}
    assert ablation.verdict(table, 0.1) == "language -3.0 (spread 1.0, better in 0 of 3): hurts"
    table["language", 0.1] = {0: 48.0, 1: 48.0, 3: 48.0}
    assert ablation.verdict(table, 0.1).endswith("too few seeds to say")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the benchmark with made-up scores; returns exit code, printed lines, and the jobs' names in order."""

    def run(score, *flags):
        trained = []

        def measure_all(ledger, jobs, at_once, prepare):
            trained.extend((job.key["ratio"], job.key["seed"], job.key["row"]) for job in jobs)
            for job in jobs:
                ledger.measure(job.key, lambda key=job.key: {"miou_ratio": score(key["row"], key["seed"])})

        monkeypatch.setattr(ablation, "_prepare", lambda args: None)
        monkeypatch.setattr(ablation, "measure_all", measure_all)
        file = tmp_path / "rows.json"
        monkeypatch.setattr(sys, "argv", ["lasermix_pp", "--folder", str(tmp_path), "--json", str(file), *flags])
        return ablation.main(), capsys.readouterr().out.splitlines(), trained

    return run


def test_all_rows_of_a_seed_come_first_and_an_ablation_need_not_win(run):
    code, lines, trained = run(lambda row, seed: 0.5 - 0.02 * list(RUNGS).index(row), "--seeds", "0", "1")
    assert code == 0
    assert trained[: len(LADDER)] == [(0.01, 0, name) for name in LADDER]
    assert trained[len(LADDER)] == (0.01, 1, "sup-only")
    assert trained[-1] == (0.1, 1, LADDER[-1])
    assert "bench-seed0" in lines[-1]
    assert lines[-1].endswith("ok")
    assert "10% labels" in lines[-2]
    assert "language -12.0" in lines[-2]
    assert "multi-modal mixing +6.0" in lines[-2]


def test_rows_that_nothing_is_compared_with_say_so(run):
    _, lines, _ = run(lambda row, seed: 0.5, "--rows", "lasermix", "--ratios", "0.1")
    assert lines[-2] == "10% labels: no two rows to compare"


def test_a_figure_that_is_not_finite_fails(run):
    code, lines, _ = run(lambda row, seed: float("nan") if (row, seed) == ("all", 1) else 0.5, "--seeds", "0", "1")
    assert code == 1
    assert lines[-1] == "FAILED: no finite figure of all at 1%, seed 1, all at 10%, seed 1"


def test_rows_of_other_weights_are_other_rows_but_where_the_row_has_no_such_part(run, tmp_path):
    flags = ["--ratios", "0.01", "--seeds", "0"]
    run(lambda row, seed: 0.5, *flags)
    weight = f"method.language_weight={LANGUAGE + 1}"
    _, lines, trained = run(lambda row, seed: 0.25, *flags, "--set", weight, "method.language_centred=false")
    assert len(trained) == len(LADDER)
    rows = json.loads((tmp_path / "rows.json").read_text())
    again = [row["row"] for row in rows[len(LADDER) :]]
    assert again == ["all", "language", "both", "oracle"]
    assert "25.0" in lines[1 + LADDER.index("language")]
    assert "50.0" in lines[1 + LADDER.index("distillation")]


def test_a_table_in_the_making_can_be_shown_without_training(run, tmp_path):
    run(lambda row, seed: 0.5, "--ratios", "0.01", "--seeds", "0")
    code, lines, trained = run(None, "--ratios", "0.01", "--seeds", "0", "1", "--show")
    assert (code, trained) == (1, [])
    assert "50.0 ± 0.0 (n=1)" in lines[1]
    assert lines[1].split()[-1] == "-"
    assert "sup-only at 1%, seed 1" in lines[-1]
    assert len(json.loads((tmp_path / "rows.json").read_text())) == len(LADDER)

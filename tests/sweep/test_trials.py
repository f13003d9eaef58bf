"""Trials: their names, what a record keeps, and which of the metrics counts."""

import json
from pathlib import Path

import pytest

from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.sweep.study import parse_study
from ray_lidarseg.sweep.trials import described, make_trial, metrics_of, read_trials

STUDY = parse_study("question: q\nspace: {method: [supervised, lasermix], optim.lr: [0.1, 0.2]}\n")
PARAMS = {"method": "lasermix", "optim.lr": 0.2}


def test_a_trial_is_named_by_its_recipe():
    demo = load_recipe("demo")
    trial = make_trial(STUDY, demo, PARAMS, 3)
    assert trial.name == trial.recipe.fingerprint
    assert (trial.recipe.method.name, trial.recipe.optim.lr, trial.recipe.seed) == ("lasermix", 0.2, 3)
    assert trial.name == make_trial(STUDY, demo, dict(reversed(PARAMS.items())), 3).name
    assert trial.name != make_trial(STUDY, demo, PARAMS, 4).name


def test_an_impossible_combination_is_named():
    study = parse_study("question: q\nspace: {method: [nerf]}\n")
    with pytest.raises(RecipeError, match=r"(?s)trial method=nerf: .*set model.name to cylinder3d"):
        make_trial(study, load_recipe("demo"), {"method": "nerf"}, 0)


def test_a_record_is_read_as_it_was_written(tmp_path):
    trial = make_trial(STUDY, load_recipe("demo"), PARAMS, 0)
    trial.state, trial.seconds = "stopped", 1.5
    trial.saw(10, {"point_miou_ratio": 0.25})
    trial.write(str(tmp_path))
    assert read_trials(str(tmp_path)) == {trial.name: trial}
    file = Path(tmp_path, "trials", trial.name, "trial.json")
    for damage in (
        "{",  # without a run folder
        file.read_text().replace("stopped", "ended"),
        file.read_text().replace('"seed": 0', '"seed": "0"'),
    ):
        file.write_text(damage)
        with pytest.raises(RunError, match=r"trial.json"):
            read_trials(str(tmp_path))
    assert read_trials(str(tmp_path / "absent")) == {}


def test_a_torn_record_is_made_again_of_the_run_it_is_about(tmp_path, capsys):
    trial = make_trial(STUDY, load_recipe("demo"), PARAMS, 0)
    folder = tmp_path / "trials" / trial.name
    trial.write(str(tmp_path))
    (folder / "trial.json").write_bytes((folder / "trial.json").read_bytes()[:100])
    with pytest.raises(RunError, match=r"trial.json"):  # there is nothing to make it of
        read_trials(str(tmp_path))
    (folder / "recipe.yaml").write_text(trial.recipe.to_yaml())
    lines = [
        {"kind": "train", "step": 10, "loss_total": 1.0},
        {"kind": "evaluate", "step": 10, "model": "student", "point_miou_ratio": 0.9},
        {"kind": "evaluate", "step": 10, "model": "teacher", "point_miou_ratio": 0.5},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    found = read_trials(str(tmp_path))[trial.name]
    assert (found.state, found.evaluations) == ("waiting", [{"step": 10, "point_miou_ratio": 0.5}])
    assert (found.recipe, found.seed) == (trial.recipe, 0)
    assert "trial.json" in (said := capsys.readouterr().out)
    assert said.endswith("the trial goes on from its run folder\n")


def test_a_resumed_trial_repeats_evaluations_behind_its_checkpoint():
    trial = make_trial(STUDY, load_recipe("demo"), PARAMS, 0)
    for step, value in ((10, 0.1), (20, 0.2), (30, 0.3), (20, 0.25)):
        trial.saw(step, {"point_miou_ratio": value})
    assert trial.evaluations == [{"step": 10, "point_miou_ratio": 0.1}, {"step": 20, "point_miou_ratio": 0.25}]
    assert (trial.step, trial.value("point_miou_ratio"), trial.value("cell_miou_ratio")) == (20, 0.25, None)


def test_metrics_are_those_of_the_model_to_deploy_that_are_finite():
    lines = [
        {"kind": "evaluate", "model": "student", "point_miou_ratio": 0.9, "cell_miou_ratio": 0.9},
        {"kind": "evaluate", "model": "teacher", "point_miou_ratio": 0.5, "cell_miou_ratio": float("nan")},
    ]
    assert metrics_of(lines, "teacher") == {"point_miou_ratio": 0.5}
    assert metrics_of(lines[:1], "teacher") == {}


def test_a_combination_is_described_in_few_digits():
    assert described({"optim.lr": 0.0123456, "method": "cps", "n": [3, 4]}) == "optim.lr=0.01235 method=cps n=[3, 4]"

"""The runner of the benchmarks' trainings."""

import json
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.errors import RunError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.run_folder import RunFolder, load_method
from tests.bench import runs
from tests.bench.ledger import Ledger, measured_by
from tests.training.prepared_walls import walls_recipe, write_walls


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return walls_recipe(write_walls(str(tmp_path_factory.mktemp("prepared"))))


def test_a_run_scores_its_last_step_and_leaves_a_run_folder(recipe, tmp_path):
    row = runs.train_here(recipe, tmp_path / "run")
    assert row["miou_ratio"] == row["student_point_miou_ratio"]
    assert len(row["iou_ratio"]) == 16
    known = [value for value in row["iou_ratio"] if value is not None]
    assert np.mean(known) == pytest.approx(row["miou_ratio"], abs=1e-3)
    assert (row["labelled_frames"], row["train_steps"]) == (4, 4)
    assert json.loads((tmp_path / "run" / runs.FIGURES).read_text()) == row
    method, _, step = load_method(str(tmp_path / "run"))
    assert step == 4
    assert row["parameters"] == sum(parameter.numel() for parameter in method.student.parameters())


def test_a_method_with_a_teacher_is_scored_by_its_teacher(recipe, tmp_path):
    row = runs.train_here(override(recipe, {"method.name": "mean_teacher"}), tmp_path / "run")
    assert {"student_point_miou_ratio", "teacher_point_miou_ratio"} <= set(row)
    assert row["miou_ratio"] == row["teacher_point_miou_ratio"]


def test_of_two_students_both_are_evaluated_and_the_one_to_deploy_scores(recipe, tmp_path):
    row = runs.train_here(override(recipe, {"method.name": "cps"}), tmp_path / "run")
    evaluations = [line for line in RunFolder(str(tmp_path / "run")).metrics() if line["kind"] == "evaluate"]
    assert [line["model"] for line in evaluations] == ["student", "second"]
    assert row["second_point_miou_ratio"] == evaluations[1]["point_miou_ratio"]
    assert row["miou_ratio"] == row["student_point_miou_ratio"] == evaluations[0]["point_miou_ratio"]


def test_a_folder_of_another_recipe_is_refused(recipe, tmp_path):
    runs.train_here(recipe, tmp_path / "run")
    with pytest.raises(RunError, match="belongs to another recipe"):
        runs.train_here(override(recipe, {"seed": 5}), tmp_path / "run")


def test_a_child_that_fails_shows_the_end_of_its_log(recipe, tmp_path):
    missing = override(recipe, {"data.prepared": str(tmp_path / "nothing")})
    with pytest.raises(RuntimeError, match=r"ended with 1(.|\n)*catalog"):
        runs.in_child(missing, tmp_path / "run")


def test_finished_figures_are_not_trained_again_but_those_of_another_recipe_are(recipe, tmp_path, monkeypatch):
    calls = []

    def child(command, **_):
        calls.append(command)
        (tmp_path / runs.FIGURES).write_text(json.dumps({"fingerprint": recipe.fingerprint, "miou_ratio": 0.5}))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(runs.subprocess, "run", child)
    (tmp_path / runs.FIGURES).write_text(json.dumps({"fingerprint": "other", "miou_ratio": 0.1}))
    assert runs.in_child(recipe, tmp_path)["miou_ratio"] == 0.5
    assert runs.in_child(recipe, tmp_path)["miou_ratio"] == 0.5
    assert len(calls) == 1


def _jobs(recipe: Recipe) -> list[runs.Job]:
    return [
        runs.Job({"number": number}, override(recipe, {"seed": number}), Path(f"run{number}")) for number in (0, 1, 2)
    ]


def test_rows_come_in_the_order_of_the_jobs_and_known_ones_are_not_trained(recipe, tmp_path):
    file, trained = tmp_path / "rows.json", []

    def train(recipe, folder):
        trained.append(recipe.seed)
        return {"miou_ratio": recipe.seed / 10, "wall_s": 1.0}

    runs.measure_all(Ledger(file), _jobs(recipe)[1:2], 2, runner=train)
    rows = runs.measure_all(Ledger(file), _jobs(recipe), 2, runner=train)
    assert [row["miou_ratio"] for row in rows] == [0.0, 0.1, 0.2]
    assert sorted(trained) == [0, 1, 2]
    assert {row["number"] for row in json.loads(file.read_text())} == {0, 1, 2}
    assert all(row["commit"] for row in rows)


def test_data_are_made_once_and_only_where_a_row_is_missing(recipe):
    made, ledger = [], Ledger(None)

    def train(recipe, folder):
        assert made == ["data"]
        return {"miou_ratio": 0.5, "wall_s": 1.0}

    for _ in range(2):
        rows = runs.measure_all(ledger, _jobs(recipe), 2, lambda: made.append("data"), train)
    assert len(rows) == 3
    assert made == ["data"]


def test_a_failed_run_costs_no_other_its_row(recipe, tmp_path):
    file = tmp_path / "rows.json"

    def train(recipe, folder):
        if recipe.seed == 1:
            raise RuntimeError("out of luck")
        return {"miou_ratio": 0.5, "wall_s": 1.0}

    with pytest.raises(RuntimeError, match="out of luck"):
        runs.measure_all(Ledger(file), _jobs(recipe), 1, runner=train)
    assert {row["number"] for row in json.loads(file.read_text())} == {0, 2}


def test_a_table_names_every_commit_and_machine_its_rows_come_from():
    rows = [
        {"commit": "b2", "hardware": "Zen 4"},
        {"commit": "a1", "hardware": "Xeon"},
        {"commit": "b2", "hardware": "Xeon"},
    ]
    assert measured_by(rows) == "a1, b2; Xeon; Zen 4"

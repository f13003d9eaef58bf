"""The runner of the benchmarks' trainings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.shards import write_catalog, write_shard
from ray_lidarseg.errors import RunError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training.loop import StepLoop
from ray_lidarseg.training.run_folder import RunFolder, load_method
from tests.bench import runs
from tests.bench.ledger import Ledger

TINY = {"method.name": "supervised", "model.width_px": 32, "model.width_factor": 0.125, "model.height_px": 32}
SHORT = {"train.steps": 4, "train.evaluate_every": 4, "train.checkpoint_every": 1, "split.ratio": 1.0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder, local = str(tmp_path_factory.mktemp("prepared")), fs.LocalFileSystem()
    write_shard(local, folder, [_keyframe(number, "train" if number < 4 else "val") for number in range(6)])
    write_catalog(local, folder)
    batch = {"train.labelled_per_step": 2, "train.unlabelled_per_step": 2, "data.prepared": folder}
    return override(Recipe(), TINY | SHORT | batch)


def _keyframe(number: int, split: str) -> Keyframe:
    """Two walls at two heights; the class is the wall."""
    rng = np.random.default_rng(number)
    points = rng.uniform(5, 20, (60, 4)).astype(np.float32)
    points[:30, 2], points[30:, 2] = -2, 1
    labels = np.repeat([3, 14], 30).astype(np.uint8)
    return Keyframe(f"f{number}", "nuscenes", f"s{number}", split, number, "p", "l", points=points, labels=labels)


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


def test_a_stopped_run_continues_to_the_same_figures(recipe, tmp_path, monkeypatch):
    whole = runs.train_here(recipe, tmp_path / "whole")
    steps_done: list[int] = []
    one_step = StepLoop.one_step

    def dies_in_its_third_step(self, micro_batches):
        if self.step == 2 and 2 not in steps_done:
            steps_done.append(2)
            raise KeyboardInterrupt
        steps_done.append(self.step)
        return one_step(self, micro_batches)

    monkeypatch.setattr(StepLoop, "one_step", dies_in_its_third_step)
    with pytest.raises(KeyboardInterrupt):
        runs.train_here(recipe, tmp_path / "stopped")
    resumed = runs.train_here(recipe, tmp_path / "stopped")
    assert steps_done == [0, 1, 2, 2, 3]
    same = set(whole) - {"wall_s", "cpu_s"}
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}
    models = [load_method(str(tmp_path / name))[0].state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_a_method_with_a_teacher_is_scored_by_its_teacher(recipe, tmp_path):
    row = runs.train_here(override(recipe, {"method.name": "mean_teacher"}), tmp_path / "run")
    assert {"student_point_miou_ratio", "teacher_point_miou_ratio"} <= set(row)
    assert row["miou_ratio"] == row["teacher_point_miou_ratio"]


def test_of_two_students_both_are_evaluated_and_the_one_to_deploy_scores(recipe, tmp_path):
    row = runs.train_here(override(recipe, {"method.name": "cps"}), tmp_path / "run")
    evaluations = [line for line in RunFolder(str(tmp_path / "run")).metrics() if line["kind"] == "evaluate"]
    assert [line["model"] for line in evaluations] == ["second", "student"]
    assert row["second_point_miou_ratio"] == evaluations[0]["point_miou_ratio"]
    assert row["miou_ratio"] == row["student_point_miou_ratio"] == evaluations[1]["point_miou_ratio"]


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

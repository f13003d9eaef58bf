import json
from dataclasses import replace
from pathlib import Path

import pytest

from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS
from ray_lidarseg.metrics.robustness import Baseline
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report.run_summary import best_of_recipes, read_run, read_runs
from ray_lidarseg.report.tables import (
    by_protocol,
    facts,
    mean_and_deviation,
    option_rows,
    protocol_title,
    result_rows,
    robustness_rows,
)
from ray_lidarseg.training.run_folder import RunFolder
from tests.report.scored_runs import add_evaluations, robustness_result


def evaluation(student: float, teacher: float, step: int = 20) -> dict:
    level = lambda miou: {"miou_ratio": miou, "iou_ratio": [miou] * 15 + [None]}  # noqa: E731
    models = {
        name: {"point": level(miou), "cell": level(miou + 0.05)}
        for name, miou in (("student", student), ("teacher", teacher))
    }
    return {"split": "val", "frames": 3, "step": step, "models": models}


def write_run(
    folder: Path, *, changes=None, teacher: float | None = None, finished: bool = True, lines: bool = True
) -> str:
    recipe = override(Recipe(), {"train.steps": 20, **(changes or {})})
    run = RunFolder(str(folder))
    run.write("recipe.yaml", recipe.to_yaml().encode())
    split = {"protocol": recipe.split.protocol, "ratio": recipe.split.ratio, "seed": recipe.split.seed}
    split |= {"digest": "abc123", "num_labelled": 4, "num_unlabelled": 36}
    manifest = {
        "split": split,
        "seed": recipe.seed,
        "is_finished": finished,
        "versions": {"torch": "2.12", "git_commit": "0123456789abcdef"},
        "hardware": {"cpu": "Abacus", "cores": 2, "memory_gib": 23.5, "gpus": ["H200"]},
    }
    run.write("manifest.json", json.dumps(manifest).encode())
    if lines:
        run.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics()).encode())
    if teacher is not None:
        run.write("evaluation/val.json", json.dumps(evaluation(teacher - 0.1, teacher)).encode())
    return run.uri


def metrics() -> list[dict]:
    lines = []
    for step in range(2, 21, 2):
        train = {"kind": "train", "step": step, "loss_total": 5 / step, "pseudo_keep_ratio": step / 40, "lr": 0.1}
        lines.append({**train, "scans_per_s": 2.0, "memory_gib": 1.25})
    for step in (10, 20):
        for model, miou in (("student", 0.2), ("teacher", 0.01 * step)):
            scores = {"point_miou_ratio": miou, "cell_miou_ratio": miou, "point_iou_ratio": [miou] * 15 + [None]}
            lines.append({"kind": "evaluate", "step": step, "model": model, **scores, "frames": 3})
    return lines


def test_a_whole_run_lacks_nothing(tmp_path):
    view = read_run(write_run(tmp_path / "a", teacher=0.5), "a")
    assert view.missing == ()
    assert view.models() == {"student": {"point": 0.4, "cell": 0.45}, "teacher": {"point": 0.5, "cell": 0.55}}
    assert view.class_iou() == [0.5] * 15 + [None]


def test_without_an_evaluation_the_last_validation_counts(tmp_path):
    view = read_run(write_run(tmp_path / "a"), "a")
    assert view.models()["teacher"] == {"point": 0.2, "cell": 0.2}
    assert view.class_iou()[0] == 0.2
    assert ["not evaluated" in sentence for sentence in view.missing] == [True]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"teacher": 0.5, "finished": False}, "not finished: stopped after step 20"),
        ({"lines": False}, "no metrics: no curves"),
    ],
)
def test_gaps_are_said(tmp_path, arguments, sentence):
    view = read_run(write_run(tmp_path / "a", **arguments), "a")
    assert any(sentence in missing for missing in view.missing)


def test_an_old_evaluation_is_said(tmp_path):
    uri = write_run(tmp_path / "a")
    RunFolder(uri).write("evaluation/val.json", json.dumps(evaluation(0.1, 0.2, step=10)).encode())
    assert read_run(uri, "a").missing == ("the evaluation is of step 10, the run is at 20: evaluate it again",)


def test_a_folder_that_is_no_run_is_said_once(tmp_path):
    view = read_run(str(tmp_path / "nothing"), "nothing")
    assert len(view.missing) == 1
    assert "no readable recipe" in view.missing[0]


def test_a_torn_evaluation_is_said(tmp_path):
    uri = write_run(tmp_path / "a")
    RunFolder(uri).write("evaluation/val.json", b"{")
    assert any("not evaluated" in sentence for sentence in read_run(uri, "a").missing)


def test_runs_of_one_name_are_told_apart(tmp_path):
    uris = [write_run(tmp_path / part / "run") for part in "xy"]
    assert [view.name for view in read_runs(uris)] == ["run", "run (2)"]


def test_seeds_are_one_row_and_protocols_are_apart(tmp_path):
    changes = [
        {"seed": 0},
        {"seed": 1, "split.seed": 1, "workers.num_workers": 1, "name": "again"},
        {"method.confidence": 0.9},
        {"split.ratio": 0.5},
        {"split.protocol": "scene"},
    ]
    teachers = [0.50, 0.54, 0.60, 0.7, 0.8]
    cases = enumerate(zip(changes, teachers, strict=True))
    views = read_runs([write_run(tmp_path / str(i), changes=c, teacher=t) for i, (c, t) in cases])
    groups = by_protocol(views)
    assert [protocol_title(protocol) for protocol, _ in groups] == [
        "nuscenes · split uniform · 10 % labelled",
        "nuscenes · split uniform · 50 % labelled",
        "nuscenes · split scene · 10 % labelled",
    ]
    first, second = result_rows(groups[0][1])
    assert first["seeds"] == 2
    assert first["deployed_point"] == "52.0 ± 2.8"
    assert first["runs"] == "0, 1"
    assert second["deployed_point"] == "60.0"
    assert second["other_cell"] == "55.0"


def test_the_deployed_model_and_the_one_beside_it_have_a_column_each_whatever_their_names(tmp_path):
    view = read_run(write_run(tmp_path / "a", changes={"method.name": "cps"}, lines=False), "a")
    named = [("student", 0.4), ("second", 0.3)]
    level = {"iou_ratio": [None] * 16}
    models = {name: {part: {"miou_ratio": miou, **level} for part in ("point", "cell")} for name, miou in named}
    cross = replace(view, evaluation={"step": 20, "models": models})
    alone = replace(view, evaluation={"step": 20, "models": {"student": models["student"]}})
    shown = [
        {key: row[key] for key in ("models", "deployed_point", "other_point")}
        for row in (result_rows([cross])[0], result_rows([alone])[0], result_rows([view])[0])
    ]
    assert shown == [
        {"models": "student, second", "deployed_point": "40.0", "other_point": "30.0"},
        {"models": "student", "deployed_point": "40.0", "other_point": "–"},
        {"models": "–", "deployed_point": "–", "other_point": "–"},
    ]


def test_means():
    assert mean_and_deviation([]) == "–"
    assert mean_and_deviation([None, 0.5]) == "50.0"
    assert mean_and_deviation([0.4, 0.5, 0.6]) == "50.0 ± 10.0"


def test_facts_name_the_origin(tmp_path):
    named = facts(read_run(write_run(tmp_path / "a"), "a"))
    assert named["split"] == "uniform · 10 %"
    assert named["frames"] == "4 labelled · 36 unlabelled"
    assert named["digest"] == "abc123"
    assert named["commit"] == "0123456789ab"
    assert named["hardware"] == "H200 · Abacus (2 cores) · 23.5 GiB"
    assert named["speed"] == "2.0 scans/s · 1.25 GiB"
    assert facts(read_run(str(tmp_path / "none"), "none"))["commit"] == "unknown"


def test_few_runs_are_all_drawn_of_many_the_best_of_each_recipe(tmp_path):
    """Recipes A (seeds 1, 2) and B; a third that was never evaluated."""
    other = {"optim.lr": 0.5}
    uris = [
        write_run(tmp_path / "a1", changes={"seed": 1}, teacher=0.5),
        write_run(tmp_path / "b", changes=other, teacher=0.4),
        write_run(tmp_path / "a2", changes={"seed": 2}, teacher=0.6),
        write_run(tmp_path / "none", changes={"optim.lr": 0.25}, lines=False),
    ]
    views = read_runs(uris)
    assert [view.final_miou() for view in views] == [0.5, 0.4, 0.6, -1.0]
    names = lambda limit: [view.name for view in best_of_recipes(views, limit)]  # noqa: E731
    assert names(4) == ["a1", "b", "a2", "none"]
    assert names(3) == ["b", "a2", "none"]
    assert names(2) == ["b", "a2"]
    assert names(1) == ["a2"]


def test_robustness_and_options_have_tables_of_their_own(tmp_path):
    baseline = Baseline("one", "nuscenes", "f00d", dict.fromkeys(CORRUPTIONS, 0.5))
    uris = [write_run(tmp_path / f"s{seed}", changes={"seed": seed}) for seed in (0, 1)]
    for seed, uri in enumerate(uris):
        add_evaluations(uri, 100 * seed, baseline)
    uris.append(write_run(tmp_path / "alone", teacher=0.5))
    views = read_runs(uris)
    assert all(view.missing == () for view in views)
    (row,) = robustness_rows(views)
    results = [robustness_result(100 * seed, baseline) for seed in (0, 1)]
    assert row["seeds"] == 2
    assert row["baseline"] == "one"
    assert row["mce"] == mean_and_deviation([result["mce_ratio"] for result in results])
    assert row["mrr"] == mean_and_deviation([result["mrr_ratio"] for result in results])
    assert row["means"]["fog"] == mean_and_deviation([one["corruptions"]["fog"]["mean_miou_ratio"] for one in results])
    options = option_rows(views)
    assert [(one["run"], one["options"]) for one in options] == [("s0", "knn"), ("s1", "knn")]
    assert options[0]["plain"] != options[0]["miou"]
    assert facts(views[0])["ECE"].endswith(" %")
    assert facts(views[2])["ECE"] == "unknown"


def test_torn_robustness_is_said(tmp_path):
    uri = write_run(tmp_path / "a", teacher=0.5)
    RunFolder(uri).write("evaluation/robustness-val.json", b'{"clean": 1}')
    view = read_run(uri, "a")
    assert view.robustness == {}
    assert "robustness cannot be shown" in view.missing[0]

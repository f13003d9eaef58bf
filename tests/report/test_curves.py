import io

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.evaluate.score_tables import numbers_of
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report import curves
from ray_lidarseg.report.run_summary import RunView
from tests.report.scored_runs import robustness_result, scores

TRAIN = tuple(
    {"kind": "train", "step": step, "loss_total": 10 / step, "pseudo_keep_ratio": 0.4} for step in range(1, 30)
)
EVALUATE = tuple(
    {"kind": "evaluate", "step": step, "model": model, "point_miou_ratio": 0.3, "point_iou_ratio": [0.5, None] * 8}
    for step in (10, 20)
    for model in ("student", "teacher")
)


def image_of(figure) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(curves.png(figure))).convert("RGB"))


def has_colour(image: np.ndarray, css: str) -> bool:
    wanted = np.array([int(css[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(image.astype(int) - wanted).max(axis=2) < 8).any())


def test_learning_curves_have_a_panel_for_each_kind_of_number():
    views = [RunView("a", "a", Recipe(), metrics=TRAIN + EVALUATE), RunView("b", "b", Recipe(), metrics=TRAIN)]
    figure = curves.learning_curves(views)
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == [
        "training loss",
        "point mIoU",
        "pseudo-labels kept",
    ]
    assert [line.get_linestyle() for line in figure.axes[1].lines] == ["--", "-"]  # student beside, teacher deployed
    image = image_of(figure)
    assert has_colour(image, curves.PALETTE[0])
    assert has_colour(image, curves.PALETTE[1])


def test_what_was_not_logged_has_no_panel():
    lines = tuple({"kind": "train", "step": 1, "loss_total": 2.0} for _ in range(1))
    assert len(curves.learning_curves([RunView("a", "a", Recipe(), metrics=lines)]).axes) == 1
    assert curves.learning_curves([RunView("a", "a", Recipe())]) is None


def test_lines_without_a_number_are_left_out():
    lines = ({"kind": "train", "step": 1, "loss_total": None}, *TRAIN)
    figure = curves.learning_curves([RunView("a", "a", Recipe(), metrics=lines)])
    assert len(figure.axes[0].lines[0].get_xdata()) == len(TRAIN)


def test_class_bars_stand_for_each_class_and_run():
    views = [RunView(name, name, Recipe(), metrics=EVALUATE) for name in "ab"] + [RunView("c", "c", Recipe())]
    figure = curves.class_bars(views)
    assert len(figure.axes[0].patches) == 2 * 16
    assert figure.axes[0].patches[0].get_height() == pytest.approx(50)
    assert has_colour(image_of(figure), curves.PALETTE[1])
    assert curves.class_bars(views[2:]) is None


def test_smoothing_is_a_trailing_mean():
    np.testing.assert_allclose(curves.smoothed([2, 4, 6, np.nan], 2), [2, 3, 5, 6])


def diagnosed(step: int, recall: float) -> dict:
    known = [0.5, 0.25, None] + [0.0] * 13
    return {
        "kind": "diagnose",
        "step": step,
        "student_unlabelled_miou_ratio": 0.2,
        "teacher_unlabelled_miou_ratio": 0.3,
        "truth_ratio": known,
        "recall_ratio": [recall, None] + [0.0] * 14,
        "kept_total_ratio": 0.6,
        "precision_total_ratio": 0.9,
    }


def test_the_diagnosis_shows_models_pseudo_labels_and_classes():
    views = [
        RunView("a", "a", Recipe(), metrics=(diagnosed(10, 0.1), diagnosed(20, 0.4))),
        RunView("b", "b", Recipe(), metrics=TRAIN),
        RunView("c", "c", Recipe(), metrics=(diagnosed(20, 0.8),)),
    ]
    figure = curves.diagnosis(views)
    miou, labels, classes = figure.axes
    assert [line.get_linestyle() for line in miou.lines] == ["--", "-"] * 2
    assert list(miou.lines[1].get_ydata()) == [30, 30]
    assert [list(line.get_ydata()) for line in labels.lines[:2]] == [[90, 90], [60, 60]]
    assert len(classes.patches) == 2 * 16
    assert classes.patches[0].get_height() == pytest.approx(40)  # of the last diagnosis
    assert classes.get_xticklabels()[0].get_text().endswith("50.0 %")
    image = image_of(figure)
    assert has_colour(image, curves.PALETTE[0])
    assert has_colour(image, curves.PALETTE[2])
    assert not has_colour(image, curves.PALETTE[1])  # run b was not diagnosed


def test_a_method_without_pseudo_labels_is_diagnosed_by_its_models():
    line = {"kind": "diagnose", "step": 5, "student_unlabelled_miou_ratio": 0.2}
    assert len(curves.diagnosis([RunView("a", "a", Recipe(), metrics=(line,))]).axes) == 1
    assert curves.diagnosis([RunView("a", "a", Recipe(), metrics=TRAIN)]) is None


def scored_view(name: str, seed: int) -> RunView:
    models = {"teacher": numbers_of(scores(seed), "skip")}
    recipe = override(Recipe(), {"method.name": "mean_teacher"})
    return RunView(name, name, recipe, evaluation={"models": models}, robustness=robustness_result(seed))


def test_distance_and_reliability_have_a_bar_and_a_line_for_each_run():
    figure = curves.ranges_and_reliability([scored_view("a", 1), scored_view("b", 2)])
    ranged, reliable = figure.axes
    assert len(ranged.patches) == 2 * 5
    assert ranged.get_xticklabels()[0].get_text().startswith("0-10 m\n")
    assert sum(int(text.get_text().split("\n")[1]) for text in ranged.get_xticklabels()) == 900
    assert len(reliable.lines) == 3  # the diagonal, and two runs
    parts = scored_view("a", 1).details()["by_range"]
    assert ranged.patches[0].get_height() == pytest.approx(100 * parts[0]["miou_ratio"])
    (axes_text,) = curves.ranges_and_reliability([scored_view("a", 1)]).axes[1].texts
    assert axes_text.get_text().startswith("ECE ")


def test_corruptions_have_a_bar_beside_the_clean_one():
    figure = curves.corruption_bars([scored_view("a", 1), RunView("b", "b", Recipe())])
    (axes,) = figure.axes
    assert len(axes.patches) == 9
    assert [text.get_text() for text in axes.get_xticklabels()][:3] == ["clean", "fog", "wet ground"]
    assert axes.patches[1].get_height() == pytest.approx(
        100 * robustness_result(1)["corruptions"]["fog"]["mean_miou_ratio"]
    )


def test_classes_say_how_many_points_were_scored():
    (axes,) = curves.class_bars([scored_view("a", 1)]).axes
    counts = [int(text.get_text().split("\n")[1]) for text in axes.get_xticklabels()]
    assert sum(counts) == 900
    assert len(counts) == 16


def test_runs_without_such_numbers_have_no_such_figures():
    bare = RunView("a", "a", Recipe(), metrics=TRAIN + EVALUATE)
    assert curves.ranges_and_reliability([bare]) is None
    assert curves.corruption_bars([bare]) is None

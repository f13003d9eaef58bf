import numpy as np
import pytest

from ray_lidarseg.evaluate.score_tables import describe, describe_robustness, numbers_of
from ray_lidarseg.metrics.robustness import Baseline
from ray_lidarseg.metrics.scoring import Scores
from tests.report.scored_runs import robustness_result


@pytest.fixture
def scores() -> Scores:
    """Two classes: 3 points near, of which one is wrong, and one far, right."""
    made = Scores.empty(3)
    truth, said = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    made.by_range.add(truth, said, np.array([1.0, 2.0, 3.0, 45.0]))
    made.calibration.add(truth, said, np.array([0.9, 0.9, 0.9, 0.9]))
    made.num_frames = 1
    return made


def test_numbers_worked_out_by_hand(scores):
    found = numbers_of(scores, "skip")
    assert found["point"]["class_points"] == [2, 2, 0]
    assert found["point"]["iou_ratio"] == [0.5, pytest.approx(2 / 3), None]
    assert found["point"]["miou_ratio"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [(part["range"], part["points"]) for part in found["by_range"]][::3] == [("0-10 m", 3), ("30-50 m", 1)]
    assert found["by_range"][3]["miou_ratio"] == 1.0
    assert found["by_range"][1]["miou_ratio"] is None  # no point there
    assert found["calibration"]["ece_ratio"] == pytest.approx(0.15, abs=1e-6)
    assert numbers_of(scores, "zero")["point"]["miou_ratio"] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert "by_range" not in numbers_of(scores, "skip", has_range=False)


def test_the_table_says_points_distance_and_calibration(scores):
    result = {
        **{"frames": 1, "split": "val", "step": 9, "dataset": "toy", "absent_rule": "skip", "deployed": "model"},
        **{"class_names": ["a", "b", "c"], "inference_name": "knn", "models": {"model": numbers_of(scores, "skip")}},
    }
    lines = describe(result).splitlines()
    assert lines[0] == "1 frames of val after 9 steps, with knn (* rule of toy)"
    assert lines[2].split() == ["a", "2", "50.0", "-"]
    assert lines[-2] == (
        "model, point mIoU by distance (points): 0-10 m 50.0 (3), 10-20 m - (0), 20-30 m - (0), 30-50 m 100.0 (1), "
        "50 m- - (0)"
    )
    assert lines[-1] == "model, expected calibration error: 15.0 %"


def test_the_table_of_robustness_names_its_baseline_and_its_doubts():
    result = robustness_result(
        3, Baseline("other", "nuscenes", "f", dict.fromkeys(robustness_result(3)["corruptions"], 0.5))
    )
    lines = describe_robustness(result).splitlines()
    assert lines[0] == "3 frames of val after 20 steps, teacher; errors relative to other"
    fog = result["corruptions"]["fog"]
    expected = [100 * fog[name]["miou_ratio"] for name in ("light", "moderate", "heavy")]
    expected += [100 * fog[name] for name in ("mean_miou_ratio", "rr_ratio", "ce_ratio")]
    assert list(map(float, lines[3].split()[1:])) == pytest.approx(expected, abs=0.051)
    assert lines[11].split()[-2:] == [f"{100 * result[name]:.1f}" for name in ("mrr_ratio", "mce_ratio")]
    assert [line.partition(":")[0] for line in lines[12:]] == ["note"] * 3
    assert "no baseline: no errors (--baseline)" in describe_robustness(robustness_result(3)).splitlines()[0]

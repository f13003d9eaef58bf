import math

import pytest
import ray.util.metrics

from ray_lidarseg.runtime.gauges import ImageCounter, TrainGauges


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What metrics are given, instead of Ray's endpoint."""
    given: list[tuple[str, float, dict[str, str]]] = []

    class Metric:
        def __init__(self, name, description, tag_keys):
            self.name, self.keys = name, set(tag_keys)

        def set(self, value, tags):
            assert tags.keys() == self.keys
            given.append((self.name, value, tags))

        inc = set

    monkeypatch.setattr(ray.util.metrics, "Gauge", Metric)
    monkeypatch.setattr(ray.util.metrics, "Counter", Metric)
    return given


def test_a_train_line_becomes_gauges_of_its_run(seen) -> None:
    line = {"kind": "train", "step": 7, "loss_total": 1.5, "scans_per_s": 30.0, "data_wait_ratio": 0.1, "lr": 0.01}
    TrainGauges("s3://b/run")({**line, "pseudo_keep_ratio": 0.4})
    assert {name: value for name, value, _ in seen} == {
        "lidarseg_step": 7,
        "lidarseg_loss": 1.5,
        "lidarseg_scans_per_s": 30.0,
        "lidarseg_data_wait_ratio": 0.1,
        "lidarseg_pseudo_keep_ratio": 0.4,
    }
    assert all(tags == {"run": "s3://b/run"} for _, _, tags in seen)


def test_what_is_not_there_or_no_number_says_nothing(seen) -> None:
    gauges = TrainGauges("r")
    gauges({"kind": "train", "step": 1, "loss_total": math.nan})
    gauges({"kind": "evaluate", "model": "student", "step": 1, "point_miou_ratio": math.nan})
    gauges({"kind": "diagnose", "step": 1, "student_unlabelled_miou_ratio": 0.5})
    gauges({"kind": "warn", "step": 1, "warning": "…"})
    assert [name for name, _, _ in seen] == ["lidarseg_step"]


def test_the_gap_of_the_teacher_is_of_one_evaluation(seen) -> None:
    gauges = TrainGauges("r")

    def score(model: str, step: int, miou: float) -> None:
        gauges({"kind": "evaluate", "model": model, "step": step, "point_miou_ratio": miou})

    score("student", 10, 0.5)
    assert "lidarseg_ema_gap_ratio" not in [name for name, _, _ in seen]
    score("teacher", 10, 0.625)
    assert seen[-1] == ("lidarseg_ema_gap_ratio", 0.125, {"run": "r"})
    assert seen[1] == ("lidarseg_miou_ratio", 0.625, {"run": "r", "model": "teacher"})
    score("student", 20, 0.75)
    assert seen[-1][0] == "lidarseg_miou_ratio"


def test_images_are_counted_by_teacher(seen) -> None:
    counter = ImageCounter("sam")
    counter.add(6)
    counter.add(0)
    assert seen == [("lidarseg_teacher_images", 6, {"teacher": "sam"})]

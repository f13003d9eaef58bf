import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ray_lidarseg import storage
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.tracking import Tracker, diagnosis_sentence, duration, lines_until, step_sentence


def _line(step, **values):
    known = {"lr": 0.1, "scans_per_s": 3.0, "data_wait_ratio": 0.25, "memory_gib": 1.5, "skipped_steps": 0}
    return {"kind": "train", "step": step, "loss_total": 2.0, "loss_mix": 2.0, **known, **values}


def test_lines_reach_file_board_and_terminal(tmp_path, capsys):
    run = RunFolder(str(tmp_path))
    tracker = Tracker(run, "", 0, 10)
    many = {"pseudo_class_3_count": 7.0, "entropy_below_0.1_bin_ratio": 0.5}
    tracker.record(_line(1, keep_ratio=0.5, **many))
    assert run.metrics() == [_line(1, keep_ratio=0.5, **many)]  # before any flush
    tracker.record(
        {"kind": "evaluate", "step": 1, "model": "student", "point_miou_ratio": 0.25, "cell_miou_ratio": 0.5}
    )
    tracker.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Scalars("train/loss_mix")[0].value == 2.0
    assert board.Scalars("student/point_miou_ratio")[0].step == 1
    printed = capsys.readouterr().out
    assert (
        "step 1/10 · loss 2 (mix 2) · keep 50.0% · lr 0.1 · 3.0 scans/s · data wait 25% · 1.50 GiB · 0 s left"
        in printed
    )
    assert "step 1 · student: mIoU 25.0% by point, 50.0% by cell" in printed


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    run = RunFolder(str(tmp_path))
    first = Tracker(run, "", 0, 10)
    for step in (1, 2, 3):
        first.record(_line(step))
    text = lines_until(first.text, 2)
    second = Tracker(run, text, 2, 10)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    second.record(_line(3, loss_total=9.0))
    assert [line["loss_total"] for line in run.metrics()] == [2.0, 2.0, 9.0]
    first.close()
    second.close()


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    run = RunFolder(str(tmp_path))
    tracker = Tracker(run, "", 0, 10)
    tracker.record(_line(1, loss_total=math.nan))
    tracker.record(
        {
            "kind": "evaluate",
            "step": 1,
            "model": "student",
            "point_miou_ratio": math.nan,
            "cell_miou_ratio": math.inf,
            "point_iou_ratio": [0.5, math.nan],
        }
    )
    tracker.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]
    assert lines[0]["loss_total"] is None
    assert (lines[1]["point_miou_ratio"], lines[1]["point_iou_ratio"]) == (None, [0.5, None])


def test_a_bucket_is_rewritten_seldom_and_at_every_flush(tmp_path, monkeypatch):
    run = RunFolder(str(tmp_path))
    monkeypatch.setattr(storage, "is_local", lambda _: False)
    tracker = Tracker(run, "", 0, 10)
    for step in (1, 2, 3):
        tracker.record(_line(step))
    assert [line["step"] for line in run.metrics()] == [1]
    tracker.flush()
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert storage.list_files(run.path("tensorboard"))
    tracker.close()


def test_a_diagnosis_names_classes_without_pseudo_labels_where_there_are_any():
    line = {"step": 5, "teacher_unlabelled_miou_ratio": 0.5, "kept_total_ratio": 0.8, "precision_total_ratio": 0.9}
    line |= {"truth_ratio": [0.5, 0.5, 0.0], "kept_ratio": [0.8, 0.0, None]}
    said = diagnosis_sentence(line)
    assert said == (
        "step 5 · unlabelled scans: teacher mIoU 50.0% · pseudo-labels on 80.0% of the points, 90.0% right, "
        "none of 1 classes"
    )
    assert diagnosis_sentence({**line, "kept_ratio": [0.8, 0.1, None]}) == said.removesuffix(", none of 1 classes")


def test_skipped_steps_are_said():
    assert "skipped 3" in step_sentence(_line(1, skipped_steps=3), 10, 5.0)
    assert "skipped" not in step_sentence(_line(1), 10, 5.0)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said

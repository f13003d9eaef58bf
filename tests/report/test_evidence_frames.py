import shutil
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets.layers import Layer
from ray_lidarseg.report.evidence_frames import PHOTO_WIDTH_PX, Combination, combinations, read_evidence
from ray_lidarseg.types import IGNORE
from tests.report.evidence_folder import (
    BACK,
    CAR,
    FEATURES,
    FRONT,
    LOCAL,
    MASKS,
    PAIRS,
    ROAD,
    folder_with_a_failure,
    keyframe,
    whole_folder,
    write_features,
    write_folder,
    write_masks,
    write_pairs,
)


def test_numbers_of_a_frame_by_hand(tmp_path):
    (shown,), problems = read_evidence(whole_folder(tmp_path), 2)
    assert (problems, shown.notes) == ([], [])
    counts = shown.counts
    assert (counts.frames, counts.images, counts.segments) == (1, 2, 3)
    assert counts.covered_ratio == 1.0 + 0.75
    assert (counts.points, counts.seen, counts.paired, counts.scored) == (6, 5, 4, 3)
    assert counts.confusion.accuracy() == pytest.approx(2 / 3)  # the tree is no car
    assert counts.confusion.miou() == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert counts.commonest_ratio == pytest.approx(1 / 3)


def test_a_frame_is_read_back_as_it_was_written(tmp_path):
    (shown,), _ = read_evidence(whole_folder(tmp_path), 2)
    (frame,) = shown.frames
    assert [image.camera.name for image in frame.cameras] == ["CAM_FRONT", "CAM_BACK"]  # what lies ahead comes first
    assert [image.position for image in frame.cameras] == [1, 0]
    front, back = frame.cameras
    np.testing.assert_array_equal(front.segments, FRONT)
    np.testing.assert_array_equal(back.segments, BACK)
    assert front.features.tolist() == [[1, 0], [0, 1]]
    assert front.photo.shape == (PHOTO_WIDTH_PX // 2, PHOTO_WIDTH_PX, 3)
    assert (front.photo == 90).all()
    assert frame.zero_shot.tolist() == [CAR, ROAD, CAR, ROAD, IGNORE, IGNORE]
    assert frame.is_paired.tolist() == [True, True, True, True, False, False]
    assert frame.point_segment.tolist() == [1, 2, 1, 2, 0, 0]
    assert frame.point_camera.tolist() == [1, 1, 0, 1, 0, -1]


def test_without_layers_the_sentence_names_the_command(tmp_path):
    prepared = write_folder(tmp_path, [keyframe()])
    shown, (problem,) = read_evidence(prepared, 2)
    assert shown == []
    assert "has no layers" in problem
    assert f"prepare INDEX --out {prepared} --masks slic --features clip" in problem


def test_a_folder_that_is_none_is_said(tmp_path):
    assert "catalog.parquet is missing: run `ray-lidarseg prepare`" in read_evidence(str(tmp_path / "gone"), 2)[1][0]


def test_masks_without_features_are_shown_and_said(tmp_path):
    prepared = write_folder(tmp_path, [keyframe()])
    write_masks(prepared, ["one"])
    write_pairs(prepared, ["one"])
    (shown,), _ = read_evidence(prepared, 2)
    assert (shown.counts.segments, shown.counts.seen, shown.counts.paired) == (3, 5, 4)
    assert "has no features layer" in shown.notes[0]
    assert len(shown.frames[0].zero_shot) == 0


def test_masks_alone_pair_nothing(tmp_path):
    prepared = write_folder(tmp_path, [keyframe()])
    write_masks(prepared, ["one"])
    (shown,), _ = read_evidence(prepared, 2)
    assert (shown.counts.segments, shown.counts.seen, shown.counts.paired) == (3, 0, 0)


def test_a_teacher_without_words_gives_no_labels(tmp_path):
    prepared = write_folder(tmp_path, [keyframe()])
    write_masks(prepared, ["one"])
    write_pairs(prepared, ["one"])
    write_features(prepared, ["one"], has_words=False)
    (shown,), _ = read_evidence(prepared, 2)
    assert shown.counts.paired == 4
    assert len(shown.frames[0].zero_shot) == 0
    assert f"{FEATURES.name} has no words" in shown.notes[0]


def test_images_that_are_gone_leave_white_and_a_note(tmp_path):
    (shown,), _ = read_evidence(whole_folder(tmp_path, has_images=False), 2)
    assert sum("drawn on white: cannot read" in note for note in shown.notes) == 2
    assert (shown.frames[0].cameras[0].photo == 255).all()
    assert shown.counts.scored == 3


def test_without_truth_there_is_no_score(tmp_path):
    (shown,), _ = read_evidence(whole_folder(tmp_path, is_labelled=False), 2)
    assert shown.counts.scored == 0
    assert shown.frames[0].zero_shot.tolist()[:2] == [CAR, ROAD]
    assert "no zero-shot score" in shown.notes[-1]


def test_a_frame_that_a_teacher_failed_on_has_masks_alone(tmp_path):
    (shown,), _ = read_evidence(folder_with_a_failure(tmp_path), 2)
    assert shown.notes == ["the teachers were not shown, or failed on, 1 of 2 frames"]
    one, two = shown.frames
    assert one.is_paired.sum() == 4
    assert two.is_paired.sum() == 0
    assert (two.zero_shot == IGNORE).all()
    assert len(two.cameras[0].features) == 0
    assert shown.counts.scored == 3


def test_frames_are_evenly_spaced_among_the_labelled_ones(tmp_path):
    names = [f"{number}" for number in range(8)]
    prepared = write_folder(tmp_path, [keyframe(name, is_labelled=name >= "4") for name in names])
    write_masks(prepared, names)
    (shown,), _ = read_evidence(prepared, 2)
    assert [frame.frame.frame_id for frame in shown.frames] == ["4", "6"]
    assert shown.total == 8


def test_every_combination_of_layers_is_found(tmp_path):
    prepared = whole_folder(tmp_path)
    other_masks = Layer("masks", {"name": "sam"})
    other_features = Layer("features", {"name": "timm"}, (MASKS.name,), feature_dim=2)
    write_masks(prepared, ["one"], other_masks)
    write_features(prepared, ["one"], other_features, has_words=False)
    assert set(combinations(LOCAL, prepared)) == {
        Combination(MASKS.name, PAIRS.name, FEATURES.name),
        Combination(MASKS.name, PAIRS.name, other_features.name),
        Combination(other_masks.name),
    }
    assert len(read_evidence(prepared, 1)[0]) == 3


def test_a_layer_that_is_not_finished_leaves_the_others(tmp_path):
    prepared = whole_folder(tmp_path)
    other = Layer("masks", {"name": "sam"})
    write_masks(prepared, ["one"], other)
    Path(prepared, "layers", other.name, "catalog.parquet").unlink()
    shown, (problem,) = read_evidence(prepared, 1)
    assert len(shown) == 1
    assert problem.startswith(f"{other.name} cannot be shown")
    assert "run `ray-lidarseg prepare` to the end first" in problem


def test_pairs_of_another_scan_are_refused(tmp_path):
    prepared = whole_folder(tmp_path)
    shutil.rmtree(Path(prepared, "layers", FEATURES.name))
    for file in Path(prepared).glob("*.parquet"):
        file.unlink()
    longer = keyframe()
    write_folder(tmp_path, [type(longer)(**{**vars(longer), "points": longer.points[:4], "labels": longer.labels[:4]})])
    shown, (problem,) = read_evidence(prepared, 1)
    assert shown == []
    assert "has 4 points, its pairs are of 6" in problem

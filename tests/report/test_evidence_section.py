import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.cli import main
from ray_lidarseg.datasets.layers import Layer
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.errors import DataError
from ray_lidarseg.report.evidence_frames import read_evidence
from ray_lidarseg.report.evidence_pictures import FeatureColours
from ray_lidarseg.report.evidence_section import evidence_panels, layer_sentence, point_colours
from ray_lidarseg.report.page import report
from ray_lidarseg.report.pictures import UNKNOWN
from ray_lidarseg.report.section import Picture
from tests.report.evidence_folder import (
    CAR,
    FEATURES,
    ROAD,
    TREE,
    folder_with_a_failure,
    keyframe,
    whole_folder,
    write_folder,
)


def pixels(picture: Picture) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(picture.source.partition("base64,")[2]))).convert("RGB"))


def test_a_panel_says_which_layers_and_what_they_are_worth(tmp_path):
    clouds: list[dict] = []
    (panel,), problems = evidence_panels(whole_folder(tmp_path), 2, clouds)
    assert problems == panel.notes == []
    assert panel.title == "masks of slic, features of clip"
    facts = dict(panel.facts)
    assert facts["features"] == f"clip · {FEATURES.name} · checkpoint_sha256 aaaaaaaa"
    assert facts["measured"] == "over the frames shown here: 1 of 1 of the folder"
    assert facts["images"] == "2, 1.5 masks each; 87.5% of the pixels have one"
    assert facts["points"] == "6; 83.3% seen by a camera, 66.7% paired with a segment"
    assert facts["zero-shot"].startswith("accuracy 66.7% and mIoU 50.0% over the 3 classes in truth or labels, of 3 ")
    assert facts["zero-shot"].endswith("commonest class everywhere: 33.3% accuracy")
    assert [(name, percent) for name, _, percent in panel.bars] == [
        ("car", 50.0),
        ("driveable surface", 100.0),
        ("vegetation", 0.0),
    ]
    (cloud,) = clouds
    assert list(cloud["layers"]) == ["truth", "zero-shot"]


def test_pictures_show_masks_features_labels_and_truth(tmp_path):
    (panel,), _ = evidence_panels(whole_folder(tmp_path), 2, [])
    ((title, above, on_images),) = panel.frames
    assert title == "val frame one"
    assert [picture.caption.partition(":")[0] for picture in on_images] == [
        "CAM_FRONT", "pooled features", "zero-shot of the points", "truth of the points",
        "CAM_BACK", "pooled features", "zero-shot of the points", "truth of the points",
    ]  # fmt: skip
    assert on_images[0].caption == "CAM_FRONT: 2 masks on 100% of the image"
    assert on_images[4].caption == "CAM_BACK: 1 mask on 75% of the image"
    masks, features, zero_shot, truth, _, features_behind, zero_shot_behind, truth_behind = map(pixels, on_images)
    assert np.abs(masks[100, 60].astype(int) - masks[100, 400]).max() > 40
    assert np.abs(features[100, 60].astype(int) - features[100, 400]).max() > 40
    np.testing.assert_allclose(features[100, 60], features_behind[100, 60], atol=4)  # both look like a car

    def shows(image: np.ndarray, column: int, row: int, class_id: int) -> None:
        place = image[row * 60 + 30, column * 60 + 30]
        np.testing.assert_allclose(place, NUSCENES.colours[class_id], atol=12)

    shows(zero_shot, 0, 0, CAR)
    shows(truth, 7, 3, ROAD)
    shows(zero_shot_behind, 4, 2, CAR)
    shows(truth_behind, 4, 2, TREE)
    assert [picture.caption for picture in above] == [
        "pooled features of the points",
        "zero-shot labels",
        "truth",
        "zero-shot errors (paired points with a truth)",
    ]


def test_a_point_has_the_colour_of_its_segment(tmp_path):
    (shown,), _ = read_evidence(whole_folder(tmp_path), 1)
    car, road = np.array([[1.0, 0.0], [0.0, 1.0]])
    colours = FeatureColours.of(np.stack([car, road]))
    like_car, like_road = colours(np.stack([car, road])).tolist()
    expected = [like_car, like_road, like_car, like_road, list(UNKNOWN), list(UNKNOWN)]
    assert point_colours(shown.frames[0], colours).tolist() == expected
    assert like_car != like_road


def test_a_frame_the_teacher_failed_on_is_pictured_without_features(tmp_path):
    (panel,), _ = evidence_panels(folder_with_a_failure(tmp_path), 2, [])
    assert len(panel.frames) == 2
    assert any("the teachers were not shown, or failed on, 1 of 2 frames" in sentence for sentence in panel.notes)


def test_without_truth_the_photograph_takes_its_place(tmp_path):
    (panel,), _ = evidence_panels(whole_folder(tmp_path, is_labelled=False), 2, [])
    ((_, above, on_images),) = panel.frames
    assert [picture.caption.partition(":")[0] for picture in on_images[:4]] == [
        "CAM_FRONT", "CAM_FRONT", "pooled features", "zero-shot of the points",
    ]  # fmt: skip
    assert (pixels(on_images[0]) == 90).all()
    assert [picture.caption for picture in above] == ["pooled features of the points", "zero-shot labels"]
    assert panel.bars == []
    assert "zero-shot" not in dict(panel.facts)


def test_a_layer_in_one_line():
    identity = {"name": "sam", "image_size": [224, 416], "checkpoint_sha256": {"a": "b" * 64, "c": "d" * 64}, "x": None}
    layer = Layer("masks", identity)
    assert layer_sentence(layer) == (f"sam · {layer.name} · image_size 224 416 · checkpoint_sha256 bbbbbbbb, dddddddd")


def test_the_page_of_a_prepared_folder_alone(tmp_path):
    out = tmp_path / "page.html"
    prepared = whole_folder(tmp_path / "prepared")
    assert main(["report", "--prepared", prepared, "--frames", "1", "--out", str(out)]) == 0
    page = out.read_text()
    assert "http" not in page.lower()
    assert not re.search(r'(src|href)="(?!data:)', page)
    for sentence in (
        f"What image teachers say of {prepared}",
        "masks of slic, features of clip",
        "66.7% paired with a segment",
        "IoU of zero-shot labels",
        "no segment, or no truth",
    ):
        assert sentence in page
    assert "0 runs" not in page
    assert page.count("data:image/jpeg;base64,") == 8
    text = re.search(r'<script id="clouds" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    assert list(json.loads(text)[0]["layers"]) == ["truth", "zero-shot"]


def test_the_page_says_which_layers_are_absent(tmp_path):
    out = tmp_path / "page.html"
    report([], str(out), prepared=write_folder(tmp_path / "prepared", [keyframe()]))
    assert "has no layers, so there is nothing to show of image teachers" in out.read_text()


def test_a_page_without_a_prepared_folder_says_nothing_of_teachers(tmp_path):
    out = tmp_path / "page.html"
    report([str(tmp_path / "no run")], str(out))
    assert "image teachers" not in out.read_text()


def test_nothing_to_report_is_bad_input(tmp_path, capsys):
    with pytest.raises(DataError, match=r"expected at least 1 frame to picture, got --frames 0"):
        report([], str(tmp_path / "page.html"), prepared="x", num_frames=0)
    assert main(["report", "--out", str(tmp_path / "page.html")]) == 2
    assert "nothing to report: give run folders" in capsys.readouterr().err

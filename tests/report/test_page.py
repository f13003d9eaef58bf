import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.submission import label_bytes
from ray_lidarseg.errors import StorageError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report.page import report
from ray_lidarseg.report.run_summary import read_run
from ray_lidarseg.report.scenes import predicted_scenes, validation_scenes
from ray_lidarseg.report.viewer import cloud
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder
from tests.report.scored_runs import add_evaluations

SMALL = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}


def keyframe(number: int, split: str) -> Keyframe:
    rng = np.random.default_rng(number)
    points = np.column_stack([rng.uniform(-30, 30, (500, 2)), rng.uniform(-2, 2, 500), rng.uniform(0, 1, 500)])
    labels = rng.integers(0, 16, 500).astype(np.uint8)
    camera = CameraImage("CAM_FRONT", "gone.jpg", np.eye(3), np.eye(4), 0, 20, 10)
    return Keyframe(
        f"{split}{number}", "nuscenes", "s", split, 0, "x.bin", "x.label", points.astype(np.float32), labels,
        cameras=(camera,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("prepared"))
    frames = [keyframe(number, "val") for number in range(3)] + [keyframe(9, "train")]
    write_shard(fs.LocalFileSystem(), folder, frames)
    write_catalog(fs.LocalFileSystem(), folder)
    return folder


def write_run(folder: Path, prepared: str, with_checkpoint: bool = True) -> str:
    changes = {"data.prepared": prepared, "model": SMALL, "method.name": "mean_teacher", "train.steps": 8}
    recipe = override(Recipe(), changes)
    run = RunFolder(str(folder))
    run.write("recipe.yaml", recipe.to_yaml().encode())
    lines = [{"kind": "train", "step": step, "loss_total": 3.0 / step} for step in (1, 2, 3)]
    run.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    if with_checkpoint:
        torch.manual_seed(0)
        method = build_method(recipe, resolve_sensor(recipe.data), 16)
        state = checkpoints.pack({"step": 3, "method": method.state_dict(), "metrics": ""})
        run.write(f"checkpoints/{checkpoints.folder_name(3)}/{checkpoints.FILE}", state)
    return run.uri


def write_predictions(folder: Path, prepared: str) -> str:
    example = {"frame_id": "val1", "points_uri": "", "dataset": "nuscenes", "columns": 0, "position": 1}
    example["labels"] = "lidarseg/val/val1_lidarseg.bin"
    gone = {**example, "frame_id": "val2", "labels": "lidarseg/val/val2_lidarseg.bin"}
    summary = {
        "run": "runs/a", "step": 3, "fingerprint": "12ab", "file_format": "lidarseg", "dataset": "nuscenes",
        "data": {}, "read_as": None,
        "num_scans": 3, "num_labelled": 2, "num_failed": 1, "num_points": {"car": 750, "bus": 250},
        "prepared": prepared, "examples": [example, gone],
    }  # fmt: skip
    run = RunFolder(str(folder))
    run.write("predictions.json", json.dumps(summary).encode())
    run.write(example["labels"], label_bytes(keyframe(1, "val").labels, NUSCENES, "lidarseg"))
    return run.uri


def test_a_page_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_lidarseg.report.page.read_runs", None)
    with pytest.raises(StorageError, match="it is a folder"):
        report([str(tmp_path)], str(tmp_path))


def test_the_page_stands_alone_and_says_what_is_missing(tmp_path, prepared):
    runs = [write_run(tmp_path / "whole", prepared), write_run(tmp_path / "killed", prepared, with_checkpoint=False)]
    predictions = write_predictions(tmp_path / "labels", prepared)
    out = tmp_path / "report.html"
    report([*runs, str(tmp_path / "absent")], str(out), [predictions, str(tmp_path / "nowhere")], prepared)
    page = out.read_text()
    assert "http" not in page.lower()
    assert not re.search(r'(src|href)="(?!data:)', page)
    for sentence in (
        "killed has no pictures",
        "no readable recipe",
        "no camera overlay",
        "nowhere has no predictions.json",
        "val2: cannot read",
        "2 of 3 scans labelled, 1 failed",
        "nuscenes · split uniform · 10 % labelled",
        "75.00 %",
        "has no layers, so there is nothing to show of image teachers",
    ):
        assert sentence in page
    images = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) >= 2 * 3 + 2 + 1
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)


def test_the_viewer_holds_the_scan_in_centimetres(tmp_path, prepared):
    (scene, _), problems = validation_scenes([read_run(write_run(tmp_path / "a", prepared), "a")])
    assert problems == []
    data = cloud(scene, max_points=100)
    xyz = np.frombuffer(base64.b64decode(data["points"]), "<i2").reshape(-1, 3)
    assert xyz.shape == (100, 3)
    distance = np.abs(scene.frame.points[None, :, :3] * 100 - xyz[:, None]).max(axis=2).min(axis=1)
    assert distance.max() <= 0.51
    assert list(data["layers"]) == ["truth", "a"]
    assert len(base64.b64decode(data["layers"]["a"])) == 100


def test_the_first_layer_of_the_page_is_the_truth(tmp_path, prepared):
    out = tmp_path / "report.html"
    report([write_run(tmp_path / "a", prepared)], str(out))
    text = re.search(r'<script id="clouds" type="application/json">(.*?)</script>', out.read_text(), re.DOTALL)[1]
    assert list(json.loads(text)[0]["layers"]) == ["truth", "a"]


def test_runs_label_the_same_frames(tmp_path, prepared):
    views = [read_run(write_run(tmp_path / name, prepared), name) for name in "ab"]
    scenes, _ = validation_scenes(views, num_frames=3)
    assert [scene.frame.frame_id for scene in scenes] == ["val0", "val1", "val2"]
    for scene in scenes:
        assert list(scene.said) == ["a", "b"]
        np.testing.assert_array_equal(scene.said["a"], scene.said["b"])


def test_shards_that_are_gone_leave_the_numbers(tmp_path):
    view = read_run(write_run(tmp_path / "a", str(tmp_path / "gone")), "a")
    scenes, problems = validation_scenes([view])
    assert scenes == []
    assert "shards cannot be read" in problems[0]
    report([view.uri], str(tmp_path / "report.html"))
    assert "training loss" not in (tmp_path / "report.html").read_text()  # it is in a figure
    assert "shards cannot be read" in (tmp_path / "report.html").read_text()


def test_labels_of_another_scan_are_refused(tmp_path, prepared):
    folder = write_predictions(tmp_path / "labels", prepared)
    RunFolder(folder).write("lidarseg/val/val1_lidarseg.bin", b"\x01\x02")
    scenes, _, problems = predicted_scenes(folder)
    assert scenes == []
    assert "2 labels, but the scan has 500 points" in problems[0]


def test_of_many_runs_each_is_in_the_table_and_few_are_drawn(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("ray_lidarseg.report.page.MAX_CHARTED", 2)
    monkeypatch.setattr("ray_lidarseg.report.page.MAX_PICTURED", 1)
    runs = [write_run(tmp_path / name, prepared) for name in ("one", "two", "three")]
    report(runs, str(tmp_path / "report.html"), num_frames=1)
    html = (tmp_path / "report.html").read_text()
    assert "one, two, three" in html
    assert "charts show 1 of 3 runs: the best of each recipe" in html
    assert "pictures show 1 of 3 runs" in html
    assert 'alt="one: errors' in html
    assert 'alt="two' not in html


def test_robustness_distance_and_options_are_on_the_page(tmp_path, prepared):
    uri = write_run(tmp_path / "run", prepared)
    add_evaluations(uri, 1)
    report([uri], str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    for words in ("Under corruption", "mRR", "wet ground", "Inference options", "<td>knn</td>", "not certain, snow"):
        assert words in page
    assert "By distance, and whether models are as often right as they say" in page

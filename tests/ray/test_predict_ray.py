import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError, RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.predict import predict
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder, load_method

pytestmark = pytest.mark.ray
SMALL = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}


def run_folder(folder: Path, dataset: str, num_classes: int, seed: int = 0, **data) -> str:
    changes = {"data": {"dataset": dataset, **data}, "model": SMALL, "method.name": "supervised"}
    recipe = override(Recipe(), {**changes, "train.evaluate_batch": 2})
    run = RunFolder(str(folder))
    torch.manual_seed(seed)
    method = build_method(recipe, resolve_sensor(recipe.data), num_classes)
    state = checkpoints.pack({"step": 5, "method": method.state_dict(), "metrics": ""})
    run.write("recipe.yaml", recipe.to_yaml().encode())
    run.write(f"checkpoints/{checkpoints.folder_name(5)}/{checkpoints.FILE}", state)
    return run.uri


@pytest.fixture(scope="module")
def nuscenes_run(tmp_path_factory) -> str:
    return run_folder(tmp_path_factory.mktemp("nuscenes_run"), "nuscenes", 16)


@pytest.fixture(scope="module")
def kitti_run(tmp_path_factory) -> str:
    return run_folder(tmp_path_factory.mktemp("kitti_run"), "semantickitti", 19)


def write_scan(file: Path, columns: int, num_points: int = 300, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    scan = rng.uniform(-20, 20, (num_points, columns)).astype(np.float32)
    scan[:, 3] = rng.uniform(0, 1, num_points) if columns == 4 else rng.integers(0, 256, num_points)
    if columns == 5:
        scan[:, 4] = np.arange(num_points) % 32
    file.parent.mkdir(parents=True, exist_ok=True)
    scan.tofile(file)
    return file


def test_lidarseg_files_of_prepared_frames_say_what_the_model_says(nuscenes_run, prepared, tmp_path, local_ray):
    report = predict(nuscenes_run, str(tmp_path), prepared=prepared, split="val", file_format="lidarseg")
    assert (report.done, report.skipped, report.failed) == (3, 0, 0)
    local = fs.LocalFileSystem()
    frames = PreparedFrames(local, prepared, read_catalog(local, prepared).of_split("val"))
    method, recipe, _ = load_method(nuscenes_run)
    for frame in frames:
        (said,) = label_frames(method.student, [frame], resolve_sensor(recipe.data))
        stem = tmp_path / "lidarseg" / "val" / f"{frame.frame_id}_lidarseg"
        written = np.fromfile(stem.with_suffix(".bin"), np.uint8)
        np.testing.assert_array_equal(written, said.labels + 1)
        confidence = np.load(f"{stem}.confidence.npy")
        assert confidence.dtype == np.float16
        np.testing.assert_allclose(confidence, said.confidence, atol=2e-3)
    assert sum(report.num_points.values()) == sum(len(frame.points) for frame in frames)
    assert json.loads((tmp_path / "val" / "submission.json").read_text())["meta"]["use_lidar"] is True


def test_frames_the_recipe_validates_on_belong_to_its_val_split(prepared, tmp_path, local_ray):
    moved = {"prepared": prepared, "val_frames": ["train-00"]}
    run = run_folder(tmp_path / "run", "nuscenes", 16, **moved)
    report = predict(run, str(tmp_path / "out"), prepared=prepared, split="val", file_format="lidarseg")
    assert report.done == 4  # three of the catalog and the moved one


def test_label_files_hold_raw_ids_of_every_point(kitti_run, tmp_path, local_ray):
    folder = tmp_path / "sequences" / "11" / "velodyne"
    for number in range(3):
        write_scan(folder / f"{number:06d}.bin", 4, 101 + number, number)
    predict(kitti_run, str(tmp_path / "out"), scans=[str(folder)], columns=4)
    legal = {10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81}
    for number in range(3):
        file = tmp_path / "out" / "sequences" / "11" / "predictions" / f"{number:06d}.label"
        raw = np.fromfile(file, np.uint32)
        assert len(raw) == 101 + number
        assert set(raw.tolist()) <= legal


def test_a_second_call_does_only_what_is_missing(nuscenes_run, prepared, tmp_path, local_ray):
    arguments = {"prepared": prepared, "split": "val", "file_format": "lidarseg"}
    first = predict(nuscenes_run, str(tmp_path), **arguments)
    files = sorted((tmp_path / "lidarseg" / "val").glob("*.bin"))
    content = files[1].read_bytes()
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    again = predict(nuscenes_run, str(tmp_path), **arguments)
    assert (again.done, again.skipped) == (1, 2)
    assert files[1].read_bytes() == content
    assert files[0].stat().st_mtime_ns == before
    summary = json.loads((tmp_path / "predictions.json").read_text())
    assert summary["num_points"] == first.num_points, "points of a scan that was labelled twice count once"
    assert summary["num_labelled"] == 3
    assert predict(nuscenes_run, str(tmp_path), **arguments).done == 0


def test_broken_scans_are_named_and_the_others_labelled(nuscenes_run, tmp_path, local_ray):
    good = write_scan(tmp_path / "good.pcd.bin", 5)
    other = write_scan(tmp_path / "other.pcd.bin", 5, seed=1)
    torn = tmp_path / "torn.pcd.bin"
    torn.write_bytes(good.read_bytes()[:-7])
    (tmp_path / "empty.pcd.bin").write_bytes(b"")
    names = ["good", "torn", "empty", "missing", "other"]
    scans = [str(tmp_path / f"{name}.pcd.bin") for name in names]
    report = predict(nuscenes_run, str(tmp_path / "out"), scans=scans, file_format="lidarseg")
    assert (report.done, report.failed) == (2, 3)
    assert "truncated" in report.reasons["torn"]
    assert "empty" in report.reasons["empty"]
    assert "no such file" in report.reasons["missing"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {line["frame_id"] for line in lines} == {"torn", "empty", "missing"}
    written = sorted(file.name for file in (tmp_path / "out" / "lidarseg" / "test").glob("*.bin"))
    assert written == ["good_lidarseg.bin", "other_lidarseg.bin"]
    assert len(other.read_bytes()) // 20 == len((tmp_path / "out/lidarseg/test/other_lidarseg.bin").read_bytes())


def test_a_folder_keeps_to_one_model(nuscenes_run, tmp_path, local_ray):
    scan = write_scan(tmp_path / "a.pcd.bin", 5)
    predict(nuscenes_run, str(tmp_path / "out"), scans=[str(scan)], file_format="lidarseg")
    with pytest.raises(RunError, match=r"holds other predictions .*choose another folder"):
        predict(nuscenes_run, str(tmp_path / "out"), scans=[str(scan)], file_format="label")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of --prepared, --index and --scans"),
        ({"scans": ["a.bin", "b/a.bin"]}, "several scans would write"),
        ({"scans": ["nowhere"]}, "neither a .bin file nor a folder"),
        ({"scans": ["a.bin"], "file_format": "lidarseg"}, "format lidarseg holds the classes of nuscenes"),
    ],
)
def test_bad_input_is_refused_before_the_work(kitti_run, tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        predict(kitti_run, str(tmp_path), **arguments)

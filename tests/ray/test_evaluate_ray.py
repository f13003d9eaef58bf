import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs
from torchmetrics.classification import MulticlassJaccardIndex

from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError, RunError, StorageError
from ray_lidarseg.evaluate import describe, evaluate
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.inference_options import InferenceOptions
from ray_lidarseg.training.run_folder import RunFolder, load_method
from ray_lidarseg.types import IGNORE

pytestmark = pytest.mark.ray
STEP = 7


@pytest.fixture(scope="session")
def untrained(prepared, tmp_path_factory) -> str:
    """A run folder with the weights of the first step, a mean teacher on a tiny range view."""
    recipe = override(
        Recipe(),
        {
            "data.prepared": prepared,
            "model": {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]},
            "method.name": "mean_teacher",
            "train.evaluate_batch": 2,
        },
    )
    folder = RunFolder(str(tmp_path_factory.mktemp("run")))
    torch.manual_seed(0)
    method = build_method(recipe, resolve_sensor(recipe.data), 16)
    with torch.no_grad():  # a teacher that is not the student
        method.segmentors()["teacher"].classifier.bias += torch.randn(16)
    state = checkpoints.pack({"step": STEP, "method": method.state_dict(), "metrics": ""})
    folder.write("recipe.yaml", recipe.to_yaml().encode())
    folder.write(f"checkpoints/{checkpoints.folder_name(STEP)}/{checkpoints.FILE}", state)
    return folder.uri


@pytest.fixture(scope="session")
def evaluated(untrained, local_ray) -> dict:
    return evaluate(untrained)


def val_frames(prepared: str) -> PreparedFrames:
    local = fs.LocalFileSystem()
    return PreparedFrames(local, prepared, read_catalog(local, prepared).of_split("val"))


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_equals_torchmetrics_on_every_point(evaluated, untrained, prepared, model):
    method, recipe, _ = load_method(untrained)
    oracle = MulticlassJaccardIndex(16, average="none", ignore_index=IGNORE)
    for frame in val_frames(prepared):
        (said,) = label_frames(method.segmentors()[model], [frame], resolve_sensor(recipe.data))
        oracle.update(torch.from_numpy(said.labels).long(), torch.from_numpy(frame.labels.copy()).long())
    iou = np.array([value or 0.0 for value in evaluated["models"][model]["point"]["iou_ratio"]])
    np.testing.assert_allclose(iou, oracle.compute().numpy(), atol=1e-6)


def test_equals_the_nuscenes_devkit_on_prediction_files(evaluated, untrained, prepared):
    """The devkit's own confusion matrix and mean, on uint8 ids 1 … 16 with 0 ignored."""
    from nuscenes.eval.lidarseg.utils import ConfusionMatrix

    method, recipe, _ = load_method(untrained)
    devkit = ConfusionMatrix(17, ignore_idx=0)
    for frame in val_frames(prepared):
        (said,) = label_frames(method.segmentors()["teacher"], [frame], resolve_sensor(recipe.data))
        devkit.update(np.where(frame.labels == IGNORE, 0, frame.labels + 1), said.labels + 1)
    point = evaluated["models"]["teacher"]["point"]
    assert point["miou_ratio"] == pytest.approx(devkit.get_mean_iou(), abs=1e-6)
    assert point["miou_ratio"] == point["miou_skip_ratio"] > point["miou_zero_ratio"]
    np.testing.assert_array_equal(np.array(point["confusion"]), devkit.global_cm[1:, 1:])


def test_writes_what_it_returns_with_its_origin(evaluated, untrained):
    written = json.loads(Path(untrained, "evaluation", "val.json").read_text())
    assert written == evaluated
    assert written["frames"] == 3
    assert written["step"] == STEP
    assert written["class_names"][3] == "car"
    assert list(written["models"]) == ["student", "teacher"]
    assert sum(map(sum, written["models"]["student"]["cell"]["confusion"])) > 0


def test_the_table_names_classes_models_and_both_rules(evaluated):
    lines = describe(evaluated).splitlines()
    assert lines[0] == "3 frames of val after 7 steps (* rule of nuscenes)"
    assert lines[1].split()[2:] == ["points", "student/point", "student/cell", "teacher/point", "teacher/cell"]
    assert [line.split()[0] for line in lines[2:4]] == ["barrier", "bicycle"]
    assert lines[-4].startswith("mIoU, absent left out *")
    assert lines[-3].startswith("mIoU, absent as 0")
    assert lines[-2].startswith("teacher, point mIoU by distance (points): 0-10 m ")
    assert lines[-1].startswith("teacher, expected calibration error: ")


def test_a_split_without_labels_is_refused(untrained, local_ray):
    with pytest.raises(DataError, match="no labelled frame of split 'test'"):
        evaluate(untrained, split="test")


def test_a_folder_that_cannot_be_written_is_said_before_the_work(untrained, tmp_path, monkeypatch):
    shutil.copytree(untrained, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    (tmp_path / "run" / "evaluation").write_bytes(b"")
    monkeypatch.setattr("ray_lidarseg.evaluate.clean._score", None)
    with pytest.raises(StorageError, match="is a file, not a folder"):
        evaluate(str(tmp_path / "run"))


def test_a_missing_checkpoint_is_refused(untrained):
    with pytest.raises(RunError, match="no checkpoint after 3 steps; there are: 7"):
        evaluate(untrained, which=3)


def test_a_shard_that_cannot_be_read_is_named(untrained, prepared, tmp_path, local_ray):
    for file in Path(prepared).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    catalog = read_catalog(fs.LocalFileSystem(), prepared).of_split("val")
    (tmp_path / catalog.shard[0]).write_bytes(b"torn")
    with pytest.raises(DataError, match=f"{catalog.shard[0]}"):
        evaluate(untrained, prepared=str(tmp_path))


def test_points_and_calibration_stand_beside_the_means(evaluated):
    teacher = evaluated["models"]["teacher"]
    total = sum(teacher["point"]["class_points"])
    assert sum(part["points"] for part in teacher["by_range"]) == total == np.sum(teacher["point"]["confusion"])
    assert [part["range"] for part in teacher["by_range"]] == ["0-10 m", "10-20 m", "20-30 m", "30-50 m", "50 m-"]
    summed = np.sum([part["confusion"] for part in teacher["by_range"]], axis=0)
    np.testing.assert_array_equal(summed, teacher["point"]["confusion"])
    assert 0 <= teacher["calibration"]["ece_ratio"] <= 1
    assert sum(part["points"] for part in teacher["calibration"]["bins"]) == total


def test_options_are_reported_apart(untrained, evaluated, local_ray):
    result = evaluate(untrained, options=InferenceOptions(views=2, knn=True))
    assert list(result["models"]) == ["teacher"]
    assert json.loads(Path(untrained, "evaluation", "val-tta2-knn.json").read_text()) == result
    assert describe(result).splitlines()[0].startswith("3 frames of val after 7 steps, with tta2-knn")
    points = np.sum(result["models"]["teacher"]["point"]["confusion"])
    assert points == np.sum(evaluated["models"]["teacher"]["point"]["confusion"])

"""Official scores of what `predict` writes: nuscenes-devkit itself, and SemanticKITTI's rules written down again."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pyarrow import fs
from torch.nn import functional

from ray_lidarseg.cli import main
from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.submission import label_bytes
from ray_lidarseg.evaluate import evaluate
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.predict import predict
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe, PointBatch
from ray_lidarseg.synthetic import nuscenes_writer, semantickitti_writer
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.types import IGNORE

pytestmark = pytest.mark.ray
SMALL = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
TO_TRAIN = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12,
    50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 253: 7, 254: 6, 255: 8, 256: 5,
    257: 5, 258: 4, 259: 5,
}  # fmt: skip
"""SemanticKITTI's raw ids and the 19 classes after 0, ignore: lasermix.md §4.2, shifted by one."""


def hardly_trained(folder: Path, dataset: str, num_classes: int, scan: Keyframe) -> str:
    """A run whose model has been shown one scan for a second: it is right about some points and wrong about others."""
    changes = {"data.dataset": dataset, "model": SMALL, "method.name": "supervised", "train.evaluate_batch": 2}
    recipe = override(Recipe(), changes)
    run = RunFolder(str(folder))
    torch.manual_seed(2)
    method = build_method(recipe, resolve_sensor(recipe.data), num_classes)
    taught = decode(scan)
    is_seen = torch.from_numpy(np.linalg.norm(taught.points[:, :3], axis=1) > 3.0)
    batch = PointBatch.of_scan(torch.from_numpy(taught.points)[is_seen])
    labels = torch.from_numpy(taught.labels).long()[is_seen]
    optimizer = torch.optim.Adam(method.student.parameters(), lr=0.01)
    for _ in range(40):
        loss = functional.cross_entropy(method.student(batch).point_logits, labels, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run.write("recipe.yaml", recipe.to_yaml().encode())
    state = checkpoints.pack({"step": 5, "method": method.state_dict(), "metrics": ""})
    run.write(f"checkpoints/{checkpoints.folder_name(5)}/{checkpoints.FILE}", state)
    return run.uri


def prepared(frames: list[Keyframe], folder: Path) -> str:
    local = fs.LocalFileSystem()
    write_shard(local, str(folder), [decode(frame) for frame in frames])
    write_catalog(local, str(folder))
    return str(folder)


def kitti_rules(root: Path, predictions: Path, sequence: str = "08") -> tuple[float, np.ndarray]:
    """Mean IoU over 19 classes and each of them: semantics are the low 16 bits, ignored truth counts nowhere.

    A class in neither truth nor prediction has IoU 0 and stays in the mean (data.md §3.2).
    """
    to_train = np.full(260, -1)
    to_train[list(TO_TRAIN)] = list(TO_TRAIN.values())
    confusion = np.zeros((20, 20), np.int64)
    for file in sorted((root / "sequences" / sequence / "labels").glob("*.label")):
        truth = np.fromfile(file, np.uint32)
        said = np.fromfile(predictions / "sequences" / sequence / "predictions" / file.name, np.uint32)
        assert truth.shape == said.shape
        pair = to_train[truth & 0xFFFF], to_train[said & 0xFFFF]
        assert min(ids.min() for ids in pair) >= 0
        np.add.at(confusion, pair, 1)
    confusion[0] = 0
    both = np.diag(confusion)
    iou = both / np.maximum(confusion.sum(0) + confusion.sum(1) - both, 1)
    return float(iou[1:].mean()), iou[1:]


@pytest.fixture(scope="module")
def kitti_root(tmp_path_factory) -> Path:
    """Two short sequences of the kitti preset, 00 to train and 08 to validate."""
    cv2.setNumThreads(1)
    root = tmp_path_factory.mktemp("kitti")
    options = {"columns": 300, "frames": 2, "image_width_px": 64, "train_scenes": 1, "val_scenes": 1}
    preset = with_options(PRESETS["kitti"], options)
    for index in range(len(preset.scenes)):
        semantickitti_writer.write_scene(root, Scene(preset, 0, index))
    return root


def test_semantickittis_rules_score_predictions_as_evaluate_does(kitti_root, tmp_path, local_ray) -> None:
    frames = [frame for frame in semantickitti.index(str(kitti_root)) if frame.split == "val"]
    run = hardly_trained(tmp_path / "run", "semantickitti", 19, frames[0])
    index = str(tmp_path / "index.parquet")
    assert main(["index", "semantickitti", str(kitti_root), "--out", index]) == 0
    assert predict(run, str(tmp_path / "said"), index=index, split="val").done == 2
    official, iou = kitti_rules(kitti_root, tmp_path / "said")
    ours = evaluate(run, prepared=prepared(frames, tmp_path / "prepared"))["models"]["student"]["point"]
    assert 0.05 < official < 0.9
    assert ours["miou_ratio"] == pytest.approx(official, abs=1e-6)
    np.testing.assert_allclose([value or 0.0 for value in ours["iou_ratio"]], iou, atol=1e-6)


def test_perfect_predictions_score_one_in_every_class_there_is(kitti_root, tmp_path) -> None:
    present = set()
    for frame in semantickitti.index(str(kitti_root)):
        if frame.split == "val":
            labels = decode(frame).labels
            file = tmp_path / "sequences" / "08" / "predictions" / Path(frame.labels_uri).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(label_bytes(labels, SEMANTICKITTI, "label"))
            present |= set(labels[labels != IGNORE].tolist())
    official, iou = kitti_rules(kitti_root, tmp_path)
    assert 8 < len(present) < 19
    assert official == pytest.approx(len(present) / 19)
    assert set(np.flatnonzero(iou == 1.0).tolist()) == present


def test_the_devkit_accepts_and_scores_predictions_as_evaluate_does(tmp_path, local_ray) -> None:
    from nuscenes import NuScenes
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval
    from nuscenes.eval.lidarseg.validate_submission import validate_submission

    cv2.setNumThreads(1)
    root, preset = tmp_path / "world", with_options(PRESETS["tiny"], {"train_scenes": 1, "image_width_px": 32})
    rows = [nuscenes_writer.write_scene(root, Scene(preset, 0, index)) for index in range(len(preset.scenes))]
    nuscenes_writer.write_tables(root, preset, 0, rows)
    frames = [frame for frame in nuscenes.index(str(root)) if frame.split == "val"]
    run, index = hardly_trained(tmp_path / "run", "nuscenes", 16, frames[0]), str(tmp_path / "index.parquet")
    assert main(["index", "nuscenes", str(root), "--out", index]) == 0
    said = tmp_path / "said"
    assert predict(run, str(said), index=index, split="val", file_format="lidarseg").done == 4
    archive = tmp_path / "submission.zip"
    assert main(["archive", str(said), "--index", index, "--out", str(archive)]) == 0
    zipfile.ZipFile(archive).extractall(said := tmp_path / "unpacked")
    nusc = NuScenes(preset.version, str(root), verbose=False)
    validate_submission(nusc, str(said), "mini_val")
    official = LidarSegEval(nusc, str(said), eval_set="mini_val", verbose=False).evaluate()["miou"]
    ours = evaluate(run, prepared=prepared(frames, tmp_path / "prepared"))["models"]["student"]["point"]
    assert 0.05 < official < 0.9
    assert ours["miou_ratio"] == pytest.approx(official, abs=1e-6)

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pyarrow import fs
from scipy.spatial.transform import Rotation

from ray_lidarseg import storage
from ray_lidarseg.cli import main
from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.shards import keyframe_table, write_shard
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.synthetic.nuscenes_writer import write_scene, write_tables
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.validate import validate
from tests.datasets import real_recordings as real

pytestmark = pytest.mark.ray
NUM_FRAMES = 6


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> list[Keyframe]:
    """Six frames of the tiny world, by path."""
    cv2.setNumThreads(1)
    root, preset = tmp_path_factory.mktemp("world"), PRESETS["tiny"]
    write_tables(root, preset, 0, [write_scene(root, Scene(preset, 0, index)) for index in range(NUM_FRAMES // 2)])
    return list(nuscenes.index(str(root)))


def write_index(frames: list[Keyframe], folder: Path) -> str:
    file = str(folder / "index.parquet")
    storage.write_bytes(file, parquet_bytes(keyframe_table(frames), 1024))
    return file


def findings(report: str) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in json.loads(storage.read_bytes(report))["findings"]}


def test_a_good_index_passes_and_the_table_says_so(local_ray, listed, tmp_path, capsys) -> None:
    report = str(tmp_path / "report.json")
    assert validate(write_index(listed, tmp_path), json_out=report) == 0
    found = findings(report)
    assert {check for check, finding in found.items() if finding["severity"] == "error"} == set()
    assert found["images"]["measured"] == f"all {6 * NUM_FRAMES} read"
    assert found["time stamps"]["measured"].startswith(f"{NUM_FRAMES} frames of 3 scenes")
    assert "6 of 6 frames" in (said := capsys.readouterr().out)
    assert "24 →  10 → driveable_surface" in said
    mapped = {tuple(row["raw_ids"]): row for row in json.loads(storage.read_bytes(report))["class_map"]}
    truth = np.concatenate([np.fromfile(frame.labels_uri, np.uint8) for frame in listed])
    assert mapped[(24,)]["num_points"] == np.count_nonzero(truth == 24)
    assert found["label ids"]["severity"] == "ok"


def test_the_command_fails_where_the_lidar_is_turned_and_files_are_gone(local_ray, listed, tmp_path, capsys) -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.radians([0.0, 0.0, -4.0])).as_matrix()
    turned = [
        replace(f, cameras=tuple(replace(c, cam_SE3_lidar=c.cam_SE3_lidar @ turn) for c in f.cameras)) for f in listed
    ]
    turned[2] = replace(turned[2], points_uri=str(tmp_path / "gone.pcd.bin"))
    short = tmp_path / "short.pcd.bin"
    short.write_bytes(Path(turned[3].points_uri).read_bytes()[:-3])
    turned[3] = replace(turned[3], points_uri=str(short))
    report = str(tmp_path / "report.json")
    assert main(["validate", write_index(turned, tmp_path), "--json", report]) == 1
    found = findings(report)
    assert found["files"]["measured"].startswith("2 of 6 sampled frames cannot be read")
    assert "gone.pcd.bin" in found["files"]["measured"]
    assert "short.pcd.bin is truncated" in found["files"]["measured"]
    assert "about the LiDAR's z axis" in found["alignment"]["measured"]
    assert "Fix: calibrate again" in capsys.readouterr().out


def test_a_prepared_folder_is_read_from_its_shards(local_ray, listed, tmp_path) -> None:
    folder, local = str(tmp_path / "prepared"), fs.LocalFileSystem()
    decoded = [decode(frame) for frame in listed[:3]]
    write_shard(local, folder, [replace(frame, points_uri="moved away") for frame in decoded])
    write_catalog(local, folder)
    report = str(tmp_path / "report.json")
    assert validate(folder, sample=2, json_out=report) == 0
    assert findings(report)["files"]["measured"] == "all 2 sampled frames read"
    write_shard(local, folder, [replace(decoded[0], frame_id="copy", scene="another drive", split="val")])
    write_catalog(local, folder)
    assert validate(folder, sample=2, json_out=report) == 1
    assert "; 1 scans of other splits are in train, too" in findings(report)["splits"]["measured"]


def real_index(samples: Path, folder: Path, name: str) -> str:
    """What a user types for each recording: a manifest with its ontology, or the SemanticKITTI layout."""
    index = str(folder / "index.parquet")
    if name == "semantickitti":
        shutil.copytree(samples / "semantickitti_seq00", folder / "data")
        assert main(["index", "semantickitti", str(folder / "data"), "--out", index]) == 0
        return index
    records, text = {
        "rellis": lambda: ([real.rellis_record(samples / "rellis3d")], real.OUSTER),
        "kitti": lambda: ([real.kitti_record(samples / "kitti_object" / "training", n) for n in range(3)], real.KITTI),
        "nuscenes": lambda: ([real.nuscenes_record(samples / "mmdet3d_demo" / "nuscenes")], real.NUSCENES),
    }[name]()
    for number, record in enumerate(records):
        record["timestamp_us"] += number * 1_000_000  # KITTI's object frames have no times of their own
        for camera in record["cameras"].values():
            camera["timestamp_us"] += number * 1_000_000
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "ontology.yaml").write_text(text)
    arguments = ["index", "manifest", str(folder / "manifest.jsonl"), "--ontology", str(folder / "ontology.yaml")]
    assert main([*arguments, "--out", index]) == 0
    return index


@pytest.mark.parametrize(
    ("name", "num_beams", "doubted"),
    [
        ("semantickitti", 64, {"classes"}),
        ("kitti", 64, set()),
        ("nuscenes", 32, set()),
        ("rellis", 58, {"alignment"}),  # off-road, one camera: too few edges for a verdict
    ],
)
def test_real_recordings_pass_from_the_command_line(
    samples, local_ray, tmp_path, name: str, num_beams: int, doubted: set[str]
) -> None:
    report = str(tmp_path / "report.json")
    assert main(["validate", real_index(samples, tmp_path, name), "--json", report]) == 0
    found = findings(report)
    assert {check for check, finding in found.items() if finding["severity"] != "ok"} == doubted
    assert found["beams"]["measured"] == f"about {num_beams}"


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        ({"axes": "FLU"}, "alignment", "the scans look as if they were turned by"),
        ({"axes": "FUR"}, "axes", "up is -y in 1 of 1 frames"),
        ({"intensity": [0, 100_000]}, "intensity", "0.000 … 0.00"),
        ({"num_beams": 128}, "beams", "about 32"),
        ({"fov_up_deg": 2.0, "fov_down_deg": -15.0}, "field of view", "of the points outside"),
    ],
)
def test_a_wrong_ontology_of_a_real_key_frame_is_noticed(
    samples, local_ray, tmp_path, change: dict[str, object], check: str, message: str
) -> None:
    record = real.nuscenes_record(samples / "mmdet3d_demo" / "nuscenes")
    if change == {"axes": "FLU"}:  # stated for the scan only: the calibration was turned by hand
        turned = np.eye(4)
        turned[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
        for camera in record["cameras"].values():
            camera["cam_SE3_lidar"] = (np.array(camera["cam_SE3_lidar"]) @ turned).tolist()
    ontology = yaml.safe_load(real.NUSCENES)
    ontology["sensor"] |= change
    (tmp_path / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "ontology.yaml").write_text(yaml.safe_dump(ontology))
    arguments = ["index", "manifest", str(tmp_path / "manifest.jsonl"), "--ontology", str(tmp_path / "ontology.yaml")]
    assert main([*arguments, "--out", str(tmp_path / "index.parquet")]) == 0
    report = str(tmp_path / "report.json")
    status = main(["validate", str(tmp_path / "index.parquet"), "--json", report])
    found = findings(report)[check]
    assert found["severity"] in ("error", "warning")
    assert status == (found["severity"] == "error")
    assert message in found["measured"]
    assert found["fix"]


def test_what_is_no_data_is_bad_input(tmp_path) -> None:
    with pytest.raises(DataError, match="run `ray-lidarseg index`"):
        validate(str(tmp_path / "nothing.parquet"))
    for no_index in (tmp_path, tmp_path / "manifest.jsonl"):
        with pytest.raises(DataError, match=r"neither an index file nor a prepared folder: run"):
            validate(str(no_index))
    with pytest.raises(DataError, match="expected a number of frames"):
        validate(str(tmp_path), sample=-1)

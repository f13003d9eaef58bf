import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pyarrow import fs
from scipy.spatial.transform import Rotation

from ray_lidarseg.cli import main
from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.shards import keyframe_table, parquet_bytes, write_catalog, write_shard
from ray_lidarseg.errors import DataError
from ray_lidarseg.runtime import storage
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.validate import validate
from ray_lidarseg.world.nuscenes_writer import write_scene, write_tables
from ray_lidarseg.world.presets import PRESETS
from ray_lidarseg.world.scene import Scene

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
    assert "6 of 6 frames" in capsys.readouterr().out


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
    decoded = [decode(frame, storage.read_bytes) for frame in listed[:3]]
    write_shard(local, folder, [replace(frame, points_uri="moved away") for frame in decoded])
    write_catalog(local, folder)
    report = str(tmp_path / "report.json")
    assert validate(folder, sample=2, json_out=report) == 0
    assert findings(report)["files"]["measured"] == "all 2 sampled frames read"


def test_what_is_no_data_is_bad_input(tmp_path) -> None:
    with pytest.raises(DataError, match="run `ray-lidarseg index`"):
        validate(str(tmp_path / "nothing.parquet"))
    with pytest.raises(DataError, match="expected a number of frames"):
        validate(str(tmp_path), sample=-1)

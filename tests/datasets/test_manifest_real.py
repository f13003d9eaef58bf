"""Real recordings of three sensors through a manifest and an ontology: the points must fall on what the images show."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ray_lidarseg.datasets import manifest
from ray_lidarseg.datasets.ontology import doubts
from ray_lidarseg.geometry.camera import project, split_projection
from ray_lidarseg.geometry.pose import from_matrix, from_quaternion, inverse
from ray_lidarseg.ontology import Ontology, parse_ontology
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

OUSTER = """
name: rellis
classes:
  - {name: grass, raw_ids: [3]}
  - {name: tree, raw_ids: [4]}
  - {name: person, raw_ids: [17]}
  - {name: fence, raw_ids: [18]}
  - {name: bush, raw_ids: [19]}
  - {name: concrete, raw_ids: [23]}
  - {name: puddle, raw_ids: [31]}
  - {name: mud, raw_ids: [33]}
ignore_raw_ids: [0]
sensor: {num_beams: 64, fov_up_deg: 22.5, fov_down_deg: -22.5, min_range_m: 1.0, max_range_m: 100.0,
         intensity: none, axes: FLU}
"""
KITTI = """
name: kitti-object
classes: [{name: car, raw_ids: [1]}]
sensor: {num_beams: 64, fov_up_deg: 3.0, fov_down_deg: -25.0, min_range_m: 2.0, max_range_m: 120.0,
         intensity: [0, 1], axes: FLU, height_m: 1.73}
"""
NUSCENES = """
name: six-cameras
classes: [{name: car, raw_ids: [17]}]
sensor: {num_beams: 32, fov_up_deg: 10.7, fov_down_deg: -30.7, min_range_m: 2.0, max_range_m: 120.0,
         intensity: [0, 255], axes: RFU, height_m: 1.84}
"""


def rellis_record(folder: Path) -> dict[str, Any]:
    mounting = yaml.safe_load((folder / "transforms.yaml").read_text())["os1_cloud_node-pylon_camera_node"]
    quaternion, translation = mounting["q"], mounting["t"]
    lidar_SE3_cam = from_quaternion([quaternion[key] for key in "wxyz"], [translation[key] for key in "xyz"])
    fx, fy, cx, cy = (float(number) for number in (folder / "camera_info.txt").read_text().split())
    camera = {
        "image": str(folder / "frame000104-1581624663_149.jpg"),
        "intrinsics": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        "cam_SE3_lidar": inverse(lidar_SE3_cam).reshape(-1).tolist(),
        "timestamp_us": 1_581_624_663_149_000,
        "width": 1920,
        "height": 1200,
    }
    return {
        "frame_id": "000104",
        "scene": "00000",
        "split": "train",
        "timestamp_us": 1_581_624_663_149_000,
        "points": str(folder / "000104.bin"),
        "labels": str(folder / "000104.label"),
        "cameras": {"pylon": camera},
    }


def kitti_record(folder: Path, number: int) -> dict[str, Any]:
    lines = (folder / "calib" / f"{number:06d}.txt").read_text().splitlines()
    numbers = {
        name: [float(text) for text in rest.split()] for name, _, rest in (line.partition(":") for line in lines)
    }
    intrinsics, cam_SE3_rectified = split_projection(np.array(numbers["P2"]).reshape(3, 4))
    rectified_SE3_cam0 = np.eye(4)
    rectified_SE3_cam0[:3, :3] = np.array(numbers["R0_rect"]).reshape(3, 3)
    image = folder / "image_2" / f"{number:06d}.png"
    width, height = Image.open(image).size
    camera = {
        "image": str(image),
        "intrinsics": intrinsics.tolist(),
        "cam_SE3_lidar": (cam_SE3_rectified @ rectified_SE3_cam0 @ from_matrix(numbers["Tr_velo_to_cam"])).tolist(),
        "timestamp_us": number,
        "width": width,
        "height": height,
    }
    return {
        "frame_id": f"{number:06d}",
        "scene": "object",
        "split": "train",
        "timestamp_us": number,
        "points": str(folder / "velodyne" / f"{number:06d}.bin"),
        "cameras": {"image_2": camera},
    }


def nuscenes_record(folder: Path) -> dict[str, Any]:
    info = json.loads((folder / "calibration.json").read_text())
    cameras = {
        name: {
            "image": str(folder / camera["img_path"]),
            "intrinsics": camera["cam2img"],
            "cam_SE3_lidar": camera["lidar2cam"],
            "timestamp_us": round(camera["timestamp"] * 1e6),
            "width": 1600,
            "height": 900,
        }
        for name, camera in info["images"].items()
    }
    return {
        "frame_id": info["token"],
        "scene": "scene-0061",
        "split": "train",
        "timestamp_us": round(info["timestamp"] * 1e6),
        "points": str(folder / info["lidar_points"]["lidar_path"]),
        "cameras": cameras,
    }


def load(record: dict[str, Any], ontology_text: str, folder: Path) -> tuple[Keyframe, Ontology]:
    file = folder / "manifest.jsonl"
    file.write_text(json.dumps(record) + "\n")
    ontology = parse_ontology(ontology_text)
    (frame,) = manifest.index(file.read_bytes(), str(file), ontology)
    return manifest.decode(frame, lambda uri: Path(uri).read_bytes(), ontology), ontology


def test_rellis_points_and_pixels_carry_the_same_label(samples: Path, tmp_path: Path) -> None:
    record = rellis_record(samples / "rellis3d")
    frame, _ = load(record, OUSTER, tmp_path)
    assert len(frame.points) == len(frame.labels) == 64 * 2048
    pixel_ids = np.array(Image.open(samples / "rellis3d" / "frame000104-1581624663_149.png"))
    raw = np.fromfile(record["labels"], np.uint32)
    (camera,) = frame.cameras

    def agreement(turned_deg: float) -> float:
        """Share of the person's points that fall on the person's pixels."""
        angle = np.radians(turned_deg)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pixels = project(frame.points, camera.cam_SE3_lidar @ turn, camera.intrinsics, 1920, 1200)
        columns, rows = pixels.pixel_idx[pixels.is_inside & (raw == 17)].T
        return float(np.mean(pixel_ids[rows, columns] == 17))

    assert agreement(0.0) > 0.75  # 0.81; the rest lies on the outline
    assert agreement(3.0) < 0.3  # the check can fail
    assert (frame.labels == IGNORE).sum() == (raw == 0).sum()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_kitti_points_in_a_box_fall_into_its_rectangle(samples: Path, tmp_path: Path, number: int) -> None:
    folder = samples / "kitti_object" / "training"
    frame, ontology = load(kitti_record(folder, number), KITTI, tmp_path)
    assert doubts(frame, ontology) == []
    (camera,) = frame.cameras
    pixels = project(frame.points, camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px)
    checked = 0
    for line in (folder / "label_2" / f"{number:06d}.txt").read_text().splitlines():
        kind, *values = line.split()
        if kind == "DontCare":
            continue
        box = np.array(values, np.float64)
        in_camera = frame.points[:, :3] @ camera.cam_SE3_lidar[:3, :3].T + camera.cam_SE3_lidar[:3, 3]
        inside = _in_box(in_camera, box) & pixels.is_inside
        left, top, right, bottom = box[3:7] + np.array([-5.0, -5.0, 5.0, 5.0])
        u, v = pixels.pixels[inside].T
        assert np.mean((u > left) & (u < right) & (v > top) & (v < bottom)) > 0.95
        checked += int(inside.sum())
    assert checked > 10


def _in_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """KITTI object boxes: height, width, length, bottom centre and yaw in the rectified camera frame."""
    (height_m, width_m, length_m), centre, yaw = box[7:10], box[10:13], box[13]
    offset = points - centre
    along = np.cos(yaw) * offset[:, 0] - np.sin(yaw) * offset[:, 2]
    across = np.sin(yaw) * offset[:, 0] + np.cos(yaw) * offset[:, 2]
    is_level = (offset[:, 1] < 0) & (offset[:, 1] > -height_m)
    return (np.abs(along) < length_m / 2) & (np.abs(across) < width_m / 2) & is_level


def test_nuscenes_cameras_look_where_their_names_say(samples: Path, tmp_path: Path) -> None:
    folder = samples / "mmdet3d_demo" / "nuscenes"
    record = nuscenes_record(folder)
    frame, ontology = load(record, NUSCENES, tmp_path)
    assert doubts(frame, ontology) == []
    assert frame.points.shape == (34_688, 4)
    assert frame.ring[:33].tolist() == [*range(32), 0]
    raw = np.fromfile(record["points"], np.float32).reshape(-1, 5)
    expected_deg = {"FRONT": 0, "FRONT_LEFT": 55, "BACK_LEFT": 109, "BACK": 180, "BACK_RIGHT": -111, "FRONT_RIGHT": -56}
    for camera in frame.cameras:
        seen = project(frame.points, camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px)
        as_given = np.array(record["cameras"][camera.name]["cam_SE3_lidar"])
        before = project(raw, as_given, camera.intrinsics, camera.width_px, camera.height_px)
        np.testing.assert_allclose(seen.depth_m, before.depth_m, atol=1e-3)
        bearing = np.angle(np.mean(np.exp(1j * np.arctan2(*frame.points[seen.is_inside, 1::-1].T))), deg=True)
        off_deg = (bearing - expected_deg[camera.name.removeprefix("CAM_")] + 180.0) % 360.0 - 180.0
        assert abs(off_deg) < 15.0, camera.name

"""Manifest records and ontologies of the real recordings beside the checkout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ray_lidarseg.geometry.camera import split_projection
from ray_lidarseg.geometry.pose import from_matrix, from_quaternion, inverse

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

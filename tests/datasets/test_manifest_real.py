"""Real recordings of three sensors through a manifest and an ontology: the points must fall on what the images show."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.checks.checks import check_scans
from ray_lidarseg.checks.findings import Finding
from ray_lidarseg.checks.measures import measure
from ray_lidarseg.datasets import manifest
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE
from tests.datasets.real_recordings import KITTI, NUSCENES, OUSTER, kitti_record, nuscenes_record, rellis_record


def load(record: dict[str, Any], ontology_text: str, folder: Path) -> tuple[Keyframe, Ontology]:
    file = folder / "manifest.jsonl"
    file.write_text(json.dumps(record) + "\n")
    ontology = parse_ontology(ontology_text)
    (frame,) = manifest.index(file.read_bytes(), str(file), ontology)
    return manifest.decode(frame, ontology), ontology


def doubts(frame: Keyframe, ontology: Ontology) -> list[Finding]:
    """What `index` says of the scan."""
    sensor = manifest.of_ontology(ontology).sensor
    findings = check_scans([measure(replace(frame, cameras=()), sensor)], sensor)
    return [finding for finding in findings if finding.severity != "ok"]


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

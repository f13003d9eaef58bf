"""Writes scenes in nuScenes format: what nuscenes-devkit 1.2.0 reads, evaluates and draws (data.md §3.1).

Frame files first, each under a temporary name and then renamed, the tables last: a folder with tables is complete.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets import world_images
from ray_lidarseg.storage.whole_files import remove_unfinished
from ray_lidarseg.synthetic.cameras import RIG, Mounting, exposure_s, intrinsics, picture, stated_ego_SE3_camera
from ray_lidarseg.synthetic.lidar import ego_SE3_lidar, scan
from ray_lidarseg.synthetic.presets import Preset
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.seeds import VERSION
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.synthetic.whole_frames import is_whole, is_whole_scan

LIDAR_CHANNEL = "LIDAR_TOP"
CATEGORIES = (
    "noise", "animal", "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.stroller",
    "human.pedestrian.wheelchair", "movable_object.barrier", "movable_object.debris",
    "movable_object.pushable_pullable", "movable_object.trafficcone", "static_object.bicycle_rack", "vehicle.bicycle",
    "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.car", "vehicle.construction", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer", "vehicle.truck", "flat.driveable_surface",
    "flat.other", "flat.sidewalk", "flat.terrain", "static.manmade", "static.other", "static.vegetation",
    "vehicle.ego",
)  # fmt: skip
"""Fine categories; the position is the index in the label files."""

_JPEG_QUALITY = 92
_POINT_TO_LABEL = 20  # five float32 to one uint8
_FIRST_TIMESTAMP_US = 1_600_000_000_000_000
_SCENE_SPACING_US = 1_000_000_000
_EMPTY_TABLES = ("attribute", "visibility", "instance", "sample_annotation")

Rows = dict[str, list[dict[str, Any]]]


def dataset_id(preset: Preset, seed: int) -> str:
    """Name of a data set: the same name means the same bytes on the same machine."""
    return f"ray-lidarseg-world-v{VERSION}-{preset.name}-seed{seed}{preset.suffix}"


def write_scene(root: Path, scene: Scene) -> Rows:
    """Writes the missing frame files of a scene, and removes what a killed writer of it left half written.

    Returns:
        The scene's rows of every table; the caller joins them, see ``write_tables``.
    """
    _remove_left_over(root, scene)
    light = Light(scene)
    for frame in range(scene.preset.num_frames):
        _write_frame(root, scene, light, frame)
    return scene_rows(scene)


def _remove_left_over(root: Path, scene: Scene) -> None:
    frames = range(scene.preset.num_frames)
    own = [file for frame in frames for file in frame_files(root, scene.preset, scene.seed, scene.index, frame)]
    names = {file.name for file in own}  # other scenes are being written to the same folders
    for folder in {file.parent for file in own}:
        remove_unfinished(fs.LocalFileSystem(), str(folder), names)


def _write_frame(root: Path, scene: Scene, light: Light, frame: int) -> None:
    points, labels = root / _file(scene, frame, LIDAR_CHANNEL), root / _label_file(scene, frame)
    if not is_whole_scan(points, labels, _POINT_TO_LABEL):
        sweep = scan(scene, frame)
        storage.write_bytes(str(points), sweep.points.tobytes())
        storage.write_bytes(str(labels), sweep.labels.tobytes())
    files = {mounting: _image_files(root, scene, frame, mounting) for mounting in RIG}
    missing = [mounting for mounting in RIG if not all(map(is_whole, files[mounting]))]
    lighting = light.at(frame * scene.preset.frame_interval_s) if missing else None
    for mounting in missing:
        assert lighting is not None
        seen = picture(scene, light, frame, mounting, lighting)
        _, image = cv2.imencode(".jpg", seen.colour[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        _, truth = cv2.imencode(".png", seen.labels)
        for file, encoded in zip(files[mounting], (image, truth), strict=False):
            storage.write_bytes(str(file), encoded.tobytes())


def _image_files(root: Path, scene: "Scene | _FrameName", frame: int, mounting: Mounting) -> list[Path]:
    """The image, and its label image where the preset asks for them."""
    image = _file(scene, frame, mounting.channel)
    return [root / image, *([root / world_images.label_file(image)] if scene.preset.label_images else [])]


def files(root: Path, preset: Preset, seed: int) -> Iterator[Path]:
    """Every file by which a data set is known to be complete: the table that is written last, then the frames."""
    yield root / preset.version / "scene.json"
    for index in range(len(preset.scenes)):
        for frame in range(preset.num_frames):
            yield from frame_files(root, preset, seed, index, frame)


def is_complete(root: Path, preset: Preset, seed: int) -> bool:
    """Whether no file of a data set is missing or torn."""
    frames = ((index, frame) for index in range(len(preset.scenes)) for frame in range(preset.num_frames))
    scans = (frame_files(root, preset, seed, *place) for place in frames)
    is_listed = all(map(is_whole, (root / preset.version).glob("*.json")))
    is_there = is_listed and all(map(is_whole, files(root, preset, seed)))
    return is_there and all(is_whole_scan(own[0], own[-1], _POINT_TO_LABEL) for own in scans)


def frame_files(root: Path, preset: Preset, seed: int, index: int, frame: int) -> list[Path]:
    """Every file of one key-frame."""
    name = _FrameName(preset, seed, index)
    of_cameras = [file for mounting in RIG for file in _image_files(root, name, frame, mounting)]
    return [root / _file(name, frame, LIDAR_CHANNEL), *of_cameras, root / _label_file(name, frame)]


class _FrameName:
    """What names a scene's files without building the scene."""

    def __init__(self, preset: Preset, seed: int, index: int) -> None:
        self.preset, self.seed, self.index = preset, seed, index


def _token(scene: Scene | _FrameName, *parts: object) -> str:
    text = "/".join(map(str, (dataset_id(scene.preset, scene.seed), *parts)))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _scene_name(scene: Scene | _FrameName) -> str:
    return scene.preset.scenes[scene.index]


def _lidar_time_us(scene: Scene | _FrameName, frame: int) -> int:
    interval_us = round(scene.preset.frame_interval_s * 1e6)
    return _FIRST_TIMESTAMP_US + scene.index * _SCENE_SPACING_US + frame * interval_us


def _time_us(scene: Scene | _FrameName, frame: int, channel: str) -> int:
    offset_ms = {mounting.channel: mounting.offset_ms for mounting in RIG}.get(channel, 0.0)
    return _lidar_time_us(scene, frame) + round(offset_ms * 1000)


def _file(scene: Scene | _FrameName, frame: int, channel: str) -> str:
    suffix = "pcd.bin" if channel == LIDAR_CHANNEL else "jpg"
    name = f"{_log(scene)}__{channel}__{_time_us(scene, frame, channel)}.{suffix}"
    return f"samples/{channel}/{name}"


def _log(scene: Scene | _FrameName) -> str:
    return f"{dataset_id(scene.preset, scene.seed)}-{_scene_name(scene)}"


def _label_file(scene: Scene | _FrameName, frame: int) -> str:
    token = _token(scene, _scene_name(scene), frame, LIDAR_CHANNEL)
    return f"lidarseg/{scene.preset.version}/{token}_lidarseg.bin"


def scene_rows(scene: Scene) -> Rows:
    """The rows of one scene: log, scene, samples, sample data, poses and calibration."""
    name, frames = _scene_name(scene), scene.preset.num_frames
    sample = [_token(scene, name, frame) for frame in range(frames)]
    log, about = _token(scene, name, "log"), _token(scene, name, "scene")
    rows: Rows = {table: [] for table in ("sample", "sample_data", "ego_pose", "calibrated_sensor", "lidarseg")}
    rows["log"] = [
        {
            "token": log,
            "logfile": _log(scene),
            "vehicle": "synthetic",
            "date_captured": "2020-09-13",
            "location": "synthetic-town",
        }
    ]
    rows["scene"] = [
        {
            "token": about,
            "name": name,
            "description": f"Synthetic street {scene.index}, generator version {VERSION}, seed {scene.seed}",
            "log_token": log,
            "nbr_samples": frames,
            "first_sample_token": sample[0],
            "last_sample_token": sample[-1],
        }
    ]
    for frame in range(frames):
        before, after = _neighbours(sample, frame)
        time_us = _lidar_time_us(scene, frame)
        rows["sample"].append(
            {"token": sample[frame], "timestamp": time_us, "scene_token": about, "prev": before, "next": after}
        )
    _sensor_rows(rows, scene, LIDAR_CHANNEL, None, sample)
    for mounting in RIG:
        _sensor_rows(rows, scene, mounting.channel, mounting, sample)
    return rows


def _neighbours(tokens: list[str], index: int) -> tuple[str, str]:
    return (tokens[index - 1] if index else "", tokens[index + 1] if index + 1 < len(tokens) else "")


def _sensor_rows(rows: Rows, scene: Scene, channel: str, mounting: Mounting | None, sample: list[str]) -> None:
    """Calibration, key-frame records and poses of one sensor."""
    name, preset = _scene_name(scene), scene.preset
    calibration = _token(scene, name, channel, "calibration")
    pose = stated_ego_SE3_camera(scene, mounting) if mounting else ego_SE3_lidar(scene)
    rows["calibrated_sensor"].append(
        {
            "token": calibration,
            "sensor_token": _token(scene, channel),
            "translation": pose[:3, 3].tolist(),
            "rotation": quaternion(pose[:3, :3]),
            "camera_intrinsic": intrinsics(mounting, preset.image_size).tolist() if mounting else [],
        }
    )
    tokens = [_token(scene, name, frame, channel) for frame in range(preset.num_frames)]
    for frame, token in enumerate(tokens):
        time_s = exposure_s(scene, frame, mounting) if mounting else frame * preset.frame_interval_s
        before, after = _neighbours(tokens, frame)
        time_us = _time_us(scene, frame, channel)
        ego = scene.ego_pose(time_s)
        rows["ego_pose"].append(
            {
                "token": token,
                "timestamp": time_us,
                "rotation": quaternion(ego[:3, :3]),
                "translation": ego[:3, 3].tolist(),
            }
        )
        rows["sample_data"].append(
            {
                "token": token,
                "sample_token": sample[frame],
                "ego_pose_token": token,
                "calibrated_sensor_token": calibration,
                "timestamp": time_us,
                "fileformat": "jpg" if mounting else "pcd",
                "is_key_frame": True,
                "height": preset.image_size[1] if mounting else 0,
                "width": preset.image_size[0] if mounting else 0,
                "filename": _file(scene, frame, channel),
                "prev": before,
                "next": after,
            }
        )
        if mounting is None:
            rows["lidarseg"].append({"token": token, "sample_data_token": token, "filename": _label_file(scene, frame)})


def quaternion(rotation: np.ndarray) -> list[float]:
    """Unit quaternion (w, x, y, z) of a rotation matrix: the largest eigenvector of Bar-Itzhack's matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array([
        [a - e - i, b + d, c + g, h - f],
        [b + d, e - a - i, f + h, c - g],
        [c + g, f + h, i - a - e, d - b],
        [h - f, c - g, d - b, a + e + i],
    ])  # fmt: skip
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1]
    sign = 1.0 if w >= 0 else -1.0
    return [float(sign * value) for value in (w, x, y, z)]


def write_tables(root: Path, preset: Preset, seed: int, scenes: list[Rows]) -> None:
    """Joins the rows of all scenes and writes the tables, the map and the split file."""
    name = _FrameName(preset, seed, 0)
    tables: Rows = {table: [] for table in _EMPTY_TABLES}
    for rows in scenes:
        for table, part in rows.items():
            tables.setdefault(table, []).extend(part)
    tables["category"] = [
        {"token": _token(name, "category", index), "name": text, "description": "", "index": index}
        for index, text in enumerate(CATEGORIES)
    ]
    channels = [(LIDAR_CHANNEL, "lidar"), *((mounting.channel, "camera") for mounting in RIG)]
    tables["sensor"] = [{"token": _token(name, channel), "channel": channel, "modality": m} for channel, m in channels]
    tables["map"] = [
        {
            "token": _token(name, "map"),
            "log_tokens": [row["token"] for row in tables["log"]],
            "category": "semantic_prior",
            "filename": "maps/blank.png",
        }
    ]
    _, blank = cv2.imencode(".png", np.zeros((16, 16), np.uint8))
    storage.write_bytes(str(root / "maps" / "blank.png"), blank.tobytes())
    splits = {"synth_train": list(preset.train_scenes), "synth_val": list(preset.val_scenes)}
    storage.write_bytes(str(root / preset.version / "splits.json"), _json(splits))
    for table, content in sorted(tables.items(), key=lambda item: item[0] == "scene"):  # scene.json marks completion
        storage.write_bytes(str(root / preset.version / f"{table}.json"), _json(content))


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode()

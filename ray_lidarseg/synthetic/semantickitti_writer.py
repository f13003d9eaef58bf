"""Writes scenes as SemanticKITTI sequences, with ScribbleKITTI's strokes for those of the training set.

Frame files first, each under a temporary name and then renamed; what concerns a whole sequence last.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.storage.whole_files import remove_unfinished
from ray_lidarseg.synthetic.kitti_rig import ego_SE3_lidar, kitti_scan, picture, projection, stated_cam0_SE3_lidar
from ray_lidarseg.synthetic.presets import Preset
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.scribbles import scribble
from ray_lidarseg.synthetic.seeds import generator
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.synthetic.whole_frames import is_whole, is_whole_scan

_FRAMES_PER_MAP = 100  # strokes are drawn on the map of so many scans: bounded memory
_POINT_TO_LABEL = 4  # four float32 to one uint32
_SCRIBBLES = 2000  # in the place of a frame number


def write_scene(root: Path, scene: Scene) -> None:
    """Writes the missing files of a sequence, and removes what a killed writer of it left half written."""
    own = _scene_files(root, scene.preset, scene.index)
    for folder in {file.parent for file in own}:
        remove_unfinished(fs.LocalFileSystem(), str(folder))
    light = Light(scene)
    for frame in range(scene.preset.num_frames):
        _write_frame(root, scene, light, frame)
    for first in range(0, scene.preset.num_frames, _FRAMES_PER_MAP):
        _write_scribbles(root, scene, range(first, min(first + _FRAMES_PER_MAP, scene.preset.num_frames)))
    _write_sequence(_folder(root, scene.preset, scene.index), scene)


def files(root: Path, preset: Preset, seed: int) -> Iterator[Path]:
    """Every file of the data set; names do not depend on the seed."""
    for index in range(len(preset.scenes)):
        yield from _scene_files(root, preset, index)


def is_complete(root: Path, preset: Preset, seed: int) -> bool:
    """Whether no file of the data set is missing or torn."""
    frames = ((index, frame) for index in range(len(preset.scenes)) for frame in range(preset.num_frames))
    scans = (frame_files(root, preset, *place) for place in frames)
    is_there = all(map(is_whole, files(root, preset, seed)))
    return is_there and all(
        is_whole_scan(own[0], own[1], _POINT_TO_LABEL) and all(is_whole_scan(file, own[1], 1) for file in own[3:])
        for own in scans
    )


def _scene_files(root: Path, preset: Preset, index: int) -> Iterator[Path]:
    yield from sequence_files(root, preset, index)
    for frame in range(preset.num_frames):
        yield from frame_files(root, preset, index, frame)


def frame_files(root: Path, preset: Preset, index: int, frame: int) -> list[Path]:
    """Scan, labels, image and, in training sequences, scribbles of one frame."""
    folder = _folder(root, preset, index)
    kinds = [("velodyne", "bin"), ("labels", "label"), ("image_2", "png")]
    if preset.scenes[index] in preset.train_scenes:
        kinds.append(("scribbles", "label"))
    return [folder / kind / f"{frame:06d}.{suffix}" for kind, suffix in kinds]


def sequence_files(root: Path, preset: Preset, index: int) -> list[Path]:
    """Calibration, poses and time stamps of one sequence."""
    return [_folder(root, preset, index) / name for name in ("calib.txt", "poses.txt", "times.txt")]


def _folder(root: Path, preset: Preset, index: int) -> Path:
    return root / "sequences" / preset.scenes[index]


def _write_frame(root: Path, scene: Scene, light: Light, frame: int) -> None:
    points, labels, image, *_ = frame_files(root, scene.preset, scene.index, frame)
    if not is_whole_scan(points, labels, _POINT_TO_LABEL):
        turn = kitti_scan(scene, frame)
        storage.write_bytes(str(points), turn.points.tobytes())
        storage.write_bytes(str(labels), turn.labels.tobytes())
    if not is_whole(image):
        _, encoded = cv2.imencode(".png", picture(scene, light, frame).colour[..., ::-1])
        storage.write_bytes(str(image), encoded.tobytes())


def _write_scribbles(root: Path, scene: Scene, frames: range) -> None:
    """Draws on the map of some frames and writes what falls on each."""
    listed = [frame_files(root, scene.preset, scene.index, frame) for frame in frames]
    targets = [names[3] for names in listed if len(names) > 3]
    if all(is_whole_scan(file, names[1], 1) for names in listed for file in names[3:]):
        return
    labels = [np.fromfile(names[1], np.uint32) for names in listed]
    positions = [_placed(scene, frame, names[0]) for frame, names in zip(frames, listed, strict=True)]
    rng = generator(scene.seed, scene.index, _SCRIBBLES, frames.start)
    semantic = (np.concatenate(labels) & 0xFFFF).astype(np.uint16)
    marked = scribble(np.concatenate(positions), semantic, rng)
    ends = np.cumsum([len(part) for part in labels])
    for file, part, chosen in zip(targets, labels, np.split(marked, ends[:-1]), strict=True):
        storage.write_bytes(str(file), np.where(chosen, part, np.uint32(0)).tobytes())


def _placed(scene: Scene, frame: int, file: Path) -> np.ndarray:
    """float32 [P, 3] points of a scan in the world."""
    points = np.fromfile(file, np.float32).reshape(-1, 4)[:, :3]
    pose = _world_SE3_lidar(scene, frame).astype(np.float32)
    return points @ pose[:3, :3].T + pose[:3, 3]


def _world_SE3_lidar(scene: Scene, frame: int) -> np.ndarray:  # noqa: N802
    return scene.ego_pose(frame * scene.preset.frame_interval_s) @ ego_SE3_lidar(scene)


def _write_sequence(folder: Path, scene: Scene) -> None:
    stated = stated_cam0_SE3_lidar(scene)
    matrices = {f"P{camera}": projection(camera, scene.preset.image_size) for camera in range(4)}
    matrices["Tr"] = stated[:3]
    lines = [f"{name}: {_numbers(matrix)}" for name, matrix in matrices.items()]
    frames = range(scene.preset.num_frames)
    poses = [_numbers(cam0_pose(scene, stated, frame)[:3]) for frame in frames]
    times = [f"{frame * scene.preset.frame_interval_s:.6e}" for frame in frames]
    for name, text in (("calib.txt", lines), ("poses.txt", poses), ("times.txt", times)):
        storage.write_bytes(str(folder / name), _text(text))


def cam0_pose(scene: Scene, stated: np.ndarray, frame: int) -> np.ndarray:
    """float64 [4, 4] camera 0 in its first frame: inv(Tr) P Tr is the LiDAR's true motion, whatever ``Tr`` is."""
    first_SE3_lidar = np.linalg.inv(_world_SE3_lidar(scene, 0)) @ _world_SE3_lidar(scene, frame)
    return stated @ first_SE3_lidar @ np.linalg.inv(stated)


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in matrix.ravel())


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()

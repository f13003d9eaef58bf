"""A wall seen by two cameras, in prepared folders with masks and pairs as `prepare` writes them."""

from pathlib import Path

import numpy as np
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.layers import (
    Layer,
    encode_segments,
    layer_folder,
    masks_columns,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.geometry.pose import from_matrix
from ray_lidarseg.sample import CameraImage, Keyframe

LOCAL = fs.LocalFileSystem()
CAM_SE3_LIDAR = from_matrix([0.0, -1.0, 0.0, 0.2, 0.0, 0.0, -1.0, 0.3, 1.0, 0.0, 0.0, -0.5])
INTRINSICS = np.array([[60.0, 0.0, 32.0], [0.0, 60.0, 16.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 64, 32


def camera(name: str, uri: str = "a.jpg") -> CameraImage:
    return CameraImage(name, uri, INTRINSICS, CAM_SE3_LIDAR, 0, WIDTH, HEIGHT)


def keyframe(number: int, uri: str = "a.jpg") -> Keyframe:
    """A wall 10 m ahead; its class is 1 on the left and 2 on the right; the first point is too near, one too far."""
    generator = np.random.default_rng(number)
    points = np.stack([np.full(60, 10.0), *generator.uniform(-3, 3, (2, 60)), np.ones(60)], 1).astype(np.float32)
    points[0, :3], points[1, 0] = 0.1, 45.0
    labels = np.where(points[:, 1] > 0, 1, 2).astype(np.uint8)
    cameras = (camera("CAM_A", uri), camera("CAM_B", uri))
    return Keyframe(f"f{number}", "nuscenes", "s", "train", number, "p", "l", points, labels, cameras=cameras)


def segments() -> np.ndarray:
    """Left half 3, right half 5, the lowest rows none."""
    found = np.full((HEIGHT, WIDTH), 3, np.uint16)
    found[:, WIDTH // 2 :] = 5
    found[24:] = 0
    return found


def write_layer(folder: str, layer: Layer, rows: list[dict]) -> None:
    path = Path(layer_folder(folder, layer.name))
    path.mkdir(parents=True)
    (path / "layer.json").write_bytes(layer.to_json())
    write_layer_shard(LOCAL, str(path), ["all"], rows)
    write_layer_catalog(LOCAL, str(path))


def with_layers(folder: str, count: int = 3, maps=None, teacher: str = "sam", uri: str = "a.jpg") -> PreparedFrames:
    """Frames with masks and pairs; the mask teacher failed on the last one."""
    frames = [keyframe(number, uri) for number in range(count)]
    write_shard(LOCAL, folder, frames)
    add_layers(folder, frames[:-1], maps or {"CAM_A": segments(), "CAM_B": segments()}, teacher)
    return PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))


def add_layers(folder: str, frames: list[Keyframe], maps: dict, teacher: str) -> None:
    masks = Layer("masks", {"name": teacher})
    columns = masks_columns({name: (encode_segments(m), int(m.max())) for name, m in maps.items()})
    write_layer(folder, masks, [{"frame_id": frame.frame_id, **columns} for frame in frames])
    rows = []
    for frame in frames:
        found = project(frame.points, CAM_SE3_LIDAR, INTRINSICS, WIDTH, HEIGHT)
        ids = np.where(found.is_inside, np.where(found.pixels[:, 0] < WIDTH // 2, 3, 5), 0)
        cameras = np.where(found.is_inside, 1, -1)  # all of them in the second camera
        rows.append({"frame_id": frame.frame_id, **pairs_columns(cameras, found.pixel_idx, ids)})
    write_layer(folder, Layer("pairs", {"name": "pairs"}, (masks.name,)), rows)

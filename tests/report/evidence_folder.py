"""A prepared folder written by hand: one frame with two cameras, two masks in front, one behind, and what they mean."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import (
    LAYER_FILE,
    TEXT_FILE,
    Layer,
    encode_segments,
    features_columns,
    masks_columns,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE

LOCAL = fs.LocalFileSystem()
WIDTH_PX, HEIGHT_PX = 8, 4
CAR, ROAD, TREE = 3, 10, 15  # class ids of nuScenes
FRONT = np.array([[1, 1, 1, 1, 2, 2, 2, 2]] * HEIGHT_PX, np.uint16)
BACK = np.array([[0] * WIDTH_PX] + [[1] * WIDTH_PX] * 3, np.uint16)
BACK_POSITION, FRONT_POSITION = 0, 1  # in Keyframe.cameras
MASKS = Layer("masks", {"name": "slic", "num_segments": 2})
PAIRS = Layer("pairs", {"name": "pairs", "occlusion": True}, (MASKS.name,))
FEATURES = Layer("features", {"name": "clip", "checkpoint_sha256": "a" * 64}, (MASKS.name,), feature_dim=2)


def keyframe(frame_id: str = "one", is_labelled: bool = True, has_images: bool = True) -> Keyframe:
    """Six points: of the four that are paired one has no truth, and a tree stands where the teacher sees a car."""
    points = np.arange(24, dtype=np.float32).reshape(6, 4) + 3
    labels = np.array([CAR, ROAD, TREE, IGNORE, CAR, CAR], np.uint8) if is_labelled else np.zeros(0, np.uint8)
    image = io.BytesIO()
    Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (90, 90, 90)).save(image, format="png")
    cameras = tuple(
        CameraImage(
            name, f"{name}.png", np.eye(3), np.eye(4), 0, WIDTH_PX, HEIGHT_PX, image.getvalue() if has_images else b""
        )
        for name in ("CAM_BACK", "CAM_FRONT")
    )
    return Keyframe(
        frame_id, "nuscenes", "s", "val", 0, "x.bin", "x.label" if is_labelled else "", points, labels, cameras=cameras
    )


def write_folder(folder: Path, frames: list[Keyframe]) -> str:
    """Shards and a catalog, without layers."""
    write_shard(LOCAL, str(folder), frames)
    write_catalog(LOCAL, str(folder))
    return str(folder)


def write_masks(folder: str, frame_ids: list[str], layer: Layer = MASKS) -> None:
    """Both cameras."""
    row = masks_columns({"CAM_BACK": (encode_segments(BACK), 1), "CAM_FRONT": (encode_segments(FRONT), 2)})
    write_rows(folder, layer, frame_ids, row)


def write_pairs(folder: str, frame_ids: list[str], layer: Layer = PAIRS) -> None:
    """Points 0, 1 and 3 on masks in front, 2 behind, 4 behind on no mask, 5 nowhere."""
    camera = np.array([FRONT_POSITION, FRONT_POSITION, BACK_POSITION, FRONT_POSITION, BACK_POSITION, -1], np.int8)
    pixel = np.array([[0, 0], [7, 3], [4, 2], [6, 1], [4, 0], [-1, -1]], np.int16)
    write_rows(folder, layer, frame_ids, pairs_columns(camera, pixel, np.array([1, 2, 1, 2, 0, 0], np.uint16)))


def write_features(folder: str, frame_ids: list[str], layer: Layer = FEATURES, has_words: bool = True) -> None:
    """Front left and back look like a car, front right like a road."""
    features = {"CAM_BACK": np.array([[1.0, 0.0]]), "CAM_FRONT": np.array([[1.0, 0.0], [0.0, 1.0]])}
    write_rows(folder, layer, frame_ids, features_columns(features))
    if has_words:
        embeddings = np.tile(np.array([-1.0, 0.0], np.float32), (16, 1))
        embeddings[CAR], embeddings[ROAD] = (1, 0), (0, 1)
        words = TextEmbeddings(embeddings, np.arange(16), tuple(f"class {number}" for number in range(16)))
        Path(folder, "layers", layer.name, TEXT_FILE).write_bytes(words.to_bytes())


def write_rows(folder: str, layer: Layer, frame_ids: list[str], row: dict[str, Any]) -> None:
    """A layer that says the same of every frame."""
    path = Path(folder, "layers", layer.name)
    path.mkdir(parents=True)
    (path / LAYER_FILE).write_bytes(layer.to_json())
    write_layer_shard(LOCAL, str(path), frame_ids, [{"frame_id": frame_id, **row} for frame_id in frame_ids])
    write_layer_catalog(LOCAL, str(path))


def whole_folder(folder: Path, **changes: Any) -> str:
    """One frame with all three layers; ``changes`` are those of ``keyframe``."""
    prepared = write_folder(folder, [keyframe(**changes)])
    for write in (write_masks, write_pairs, write_features):
        write(prepared, ["one"])
    return prepared


def folder_with_a_failure(folder: Path) -> str:
    """Two frames with masks and pairs; the feature teacher failed on the second."""
    prepared = write_folder(folder, [keyframe("one"), keyframe("two")])
    write_masks(prepared, ["one", "two"])
    write_pairs(prepared, ["one", "two"])
    write_features(prepared, ["one"])
    return prepared

"""An image teacher that is never wrong, on the segments that are there: how far a method could get with images.

Each segment's feature is the one-hot class that most of its labelled points have, and the text embedding of a class is
its own one-hot vector, so the language logits name that class. Truth of unlabelled scans: for studies only.
"""

import numpy as np
from jaxtyping import Float, Int8, UInt8, UInt16
from pyarrow import fs

from ray_lidarseg.datasets.catalog import CATALOG_NAME, read_catalog
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import (
    LAYER_FILE,
    TEXT_FILE,
    Layer,
    LayerRows,
    cameras_of,
    features_columns,
    layer_folder,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.storage.whole_files import write_whole
from ray_lidarseg.types import IGNORE

_FRAMES_PER_SHARD = 50


def oracle_layer(masks: str, pairs: str, num_classes: int) -> Layer:
    """What the layer of ``write_oracle`` is made of."""
    return Layer("features", {"name": "oracle"}, (masks, pairs), num_classes)


def write_oracle(prepared: str, masks: str, pairs: str, class_names: tuple[str, ...]) -> None:
    """Writes the features layer of such a teacher for all training frames, unless it is there.

    Args:
        prepared: Local prepared folder with labels, masks and pairs.
        masks: Layer of the segments.
        pairs: Layer that says which point lies on which segment.
        class_names: Of the C classes.
    """
    local = fs.LocalFileSystem()
    layer = oracle_layer(masks, pairs, len(class_names))
    folder = layer_folder(prepared, layer.name)
    if local.get_file_info(f"{folder}/{CATALOG_NAME}").type == fs.FileType.File:  # written last
        return
    local.create_dir(folder)
    catalog = read_catalog(local, prepared).of_split("train")
    frames = PreparedFrames(local, prepared, catalog)
    pair_rows, mask_rows = LayerRows(local, prepared, pairs), LayerRows(local, prepared, masks)
    for first in range(0, len(catalog.frame_id), _FRAMES_PER_SHARD):
        names = catalog.frame_id[first : first + _FRAMES_PER_SHARD]
        rows = []
        for index, name in enumerate(names, start=first):
            counts = mask_rows.row(name, ("num_segments",))
            sizes = {camera: counts[f"{camera}.num_segments"] for camera in cameras_of(counts)}
            pairing = pair_rows.row(name, ("point_camera", "point_segment"))
            camera = np.frombuffer(pairing["point_camera"], np.int8)
            segment = np.frombuffer(pairing["point_segment"], np.uint16)
            features = majority(camera, segment, frames[index].labels, list(sizes.values()), len(class_names))
            rows.append({"frame_id": name, **features_columns(dict(zip(sizes, features, strict=True)))})
        write_layer_shard(local, folder, names, rows)
    eye = np.eye(len(class_names), dtype=np.float32)
    text = TextEmbeddings(eye, np.arange(len(class_names)), class_names)
    write_whole(local, f"{folder}/{TEXT_FILE}", text.to_bytes())
    write_whole(local, f"{folder}/{LAYER_FILE}", layer.to_json())
    write_layer_catalog(local, folder)


def majority(
    point_camera: Int8[np.ndarray, "P"],
    point_segment: UInt16[np.ndarray, "P"],
    labels: UInt8[np.ndarray, "P"],
    num_segments: list[int],
    num_classes: int,
) -> list[Float[np.ndarray, "_ C"]]:
    """For each camera [N, C]: the one-hot class of most labelled points of each segment, zeros where there are none."""
    found = []
    for camera, size in enumerate(num_segments):
        is_counted = (point_camera == camera) & (point_segment > 0) & (labels != IGNORE)
        votes = np.zeros((size, num_classes), np.int64)
        np.add.at(votes, (point_segment[is_counted].astype(np.int64) - 1, labels[is_counted]), 1)
        one_hot = np.eye(num_classes, dtype=np.float32)[votes.argmax(axis=1)]
        found.append(one_hot * votes.any(axis=1)[:, None])
    return found

"""What a teacher that is never wrong says of ``prepared_walls``: layers as `prepare` writes them."""

from pathlib import Path

import numpy as np
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import (
    TEXT_FILE,
    Layer,
    features_columns,
    layer_folder,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.nuscenes import CLASSES
from tests.training.prepared_walls import write_walls

LOCAL = fs.LocalFileSystem()
PAIRS = Layer("pairs", {}, ("masks-0",))
DIM = CLASSES.num_classes
LOWER, UPPER = 3, 14
EYE = np.eye(DIM, dtype=np.float32)
WORDS = TextEmbeddings(EYE, np.arange(DIM), CLASSES.class_names)


def write_seen_walls(folder: str, words: TextEmbeddings | None = WORDS, feature_dim: int = DIM) -> str:
    """Writes shards and layers: each wall is a segment whose feature is its class; returns the folder."""
    write_walls(folder)
    features = Layer("features", {}, ("masks-0",), feature_dim=feature_dim)
    names = list(read_catalog(LOCAL, folder).frame_id)
    segment = np.repeat(np.array([1, 2], np.uint16), 30)
    eye = np.eye(feature_dim, dtype=np.float16)
    columns = {
        "pairs": pairs_columns(np.zeros(60, np.int8), np.zeros((60, 2), np.int16), segment),
        "features": features_columns({"CAM": eye[[LOWER, UPPER % feature_dim]]}),
    }
    for layer in (PAIRS, features):
        path = Path(layer_folder(folder, layer.name))
        path.mkdir(parents=True)
        (path / "layer.json").write_bytes(layer.to_json())
        write_layer_shard(LOCAL, str(path), names, [{"frame_id": name, **columns[layer.kind]} for name in names])
        if layer is features and words is not None:
            (path / TEXT_FILE).write_bytes(words.to_bytes())
        write_layer_catalog(LOCAL, str(path))
    return folder

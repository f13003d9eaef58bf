"""The image teacher that knows the truth."""

import numpy as np
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog, write_catalog
from ray_lidarseg.datasets.evidence import EvidenceReader
from ray_lidarseg.datasets.layers import (
    LAYER_FILE,
    Layer,
    encode_segments,
    layer_folder,
    masks_columns,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.whole_files import write_whole
from ray_lidarseg.types import IGNORE, IMAGE_SEGMENT, LANGUAGE_LOGITS
from tests.bench.distill_run import measured_frames
from tests.bench.oracle_evidence import majority, oracle_layer, write_oracle

LOCAL = fs.LocalFileSystem()
CAMERA = np.array([0, 0, 0, 1, -1, 0], np.int8)
SEGMENT = np.array([1, 1, 1, 2, 0, 3], np.uint16)
LABELS = np.array([2, 0, 2, 1, 1, IGNORE], np.uint8)


def test_a_segment_has_the_class_of_most_of_its_labelled_points():
    first, second = majority(CAMERA, SEGMENT, LABELS, [3, 2], 3)
    assert first.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]  # no point on the second, no label on the third
    assert second.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_training_reads_it_as_any_layer(tmp_path):
    points = np.ones((6, 4), np.float32)
    frames = [
        Keyframe(name, "nuscenes", "s", split, 0, "p", labels_uri="l", points=points, labels=LABELS)
        for name, split in (("a", "train"), ("b", "val"))
    ]
    write_shard(LOCAL, str(tmp_path), frames)
    write_catalog(LOCAL, str(tmp_path))
    masks = Layer("masks", {"name": "slic"})
    pairs = Layer("pairs", {"name": "pairs"}, (masks.name,))
    image = (encode_segments(np.zeros((2, 2), np.uint16)), 3)
    rows = (
        (masks, masks_columns({"CAM_A": image, "CAM_B": image})),
        (pairs, pairs_columns(CAMERA, np.zeros((6, 2), np.int16), SEGMENT)),
    )
    for layer, columns in rows:
        folder = layer_folder(str(tmp_path), layer.name)
        LOCAL.create_dir(folder)
        write_whole(LOCAL, f"{folder}/{LAYER_FILE}", layer.to_json())
        write_layer_shard(LOCAL, folder, ["a"], [{"frame_id": "a", **columns}])
        write_layer_catalog(LOCAL, folder)
    for _ in range(2):  # the second time it is there
        write_oracle(str(tmp_path), masks.name, pairs.name, ("car", "road", "tree"))
    name = oracle_layer(masks.name, pairs.name, 3).name
    catalog = read_catalog(LOCAL, str(tmp_path)).of_split("train")
    reader = EvidenceReader(LOCAL, str(tmp_path), catalog, f"{name}/{pairs.name}")
    extras, segments = reader.read(0, (LANGUAGE_LOGITS,))
    row = extras[IMAGE_SEGMENT]
    assert (row > 0).tolist() == [True, True, True, True, False, False]
    assert torch.equal(segments[LANGUAGE_LOGITS][row[:4]].argmax(dim=1), torch.tensor([2, 2, 2, 1]))
    assert reader.feature_dim == 3
    # it has seen training scenes only, so there the structure of what learns from it is measured
    frames, evidence = measured_frames(str(tmp_path), f"{name}/{pairs.name}", count=60)
    assert [frames[number].frame_id for number in range(len(frames))] == ["a"]
    assert evidence.num_missing == 0
